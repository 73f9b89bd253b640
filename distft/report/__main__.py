"""`distft report run=DIR` or `sweep=DIR`: rebuilds the page and the figures from the files of the folder."""

from pathlib import Path

from distft.config.command import command, find_run, keywords, usage
from distft.config.errors import ConfigError
from distft.report import card, page
from distft.report.curves import save, write_sheet
from distft.report.facts import gather
from distft.report.sweep import page as sweep_page
from distft.report.sweep.drawings import sheet
from distft.report.sweep.jobs import find_sweep, read_sweep
from distft.report.sweep.page import write_table
from distft.report.sweep.settings import rank

KEYS = {"run": "the run folder, finished or not", "sweep": "the sweep folder, finished or not"}
CLAIM = (
    "Writes a self-contained page, report.html, from the files of a run or sweep into its folder.\n"
    "In addition, for a run curves.svg and curves.png; for a sweep sweep.svg, sweep.png and sweep.csv."
)


def main(arguments: list[str]) -> int:
    given = keywords(arguments, KEYS, required=[])
    if len(given) != 1:
        text = " ".join(f"{key}={value}" for key, value in given.items()) or "run= or sweep="
        rule = "both are given" if given else "neither is given"
        raise ConfigError([f"{text}: {rule}; a page shows one folder. Try: run=DIR or sweep=DIR"])
    report = report_run(given["run"]) if "run" in given else report_sweep(given["sweep"])
    print(report)
    return 0


def report_run(value: str) -> Path:
    """Writes the page and curves of a run; returns the path of the page."""
    run = find_run(value)
    facts = gather(run)
    write_sheet(facts.rows, facts.name, run.path)
    page.write(facts, run.path / "report.html")
    card.refresh(run)
    return run.path / "report.html"


def report_sweep(value: str) -> Path:
    """Writes the page, the figures and the table of a sweep; returns the path of the page."""
    folder = find_sweep(value)
    sweep = read_sweep(folder)
    write_table(sweep, folder / "sweep.csv")
    save(sheet(sweep, rank(sweep)), folder / "sweep")
    sweep_page.write(sweep, folder / "report.html")
    return folder / "report.html"


if __name__ == "__main__":
    command(main, help=usage("report", KEYS, CLAIM))
