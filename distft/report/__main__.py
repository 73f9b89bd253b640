"""`distft report run=DIR`, `sweep=DIR` or `runs=[A,B]`: makes the page and the figures from the files of the folder."""

import signal
from pathlib import Path

from distft.config.command import command, find_run, keywords, usage
from distft.config.errors import ConfigError
from distft.paths import absolute
from distft.report import card, compare, page
from distft.report.curves import save, write_sheet
from distft.report.facts import gather
from distft.report.serve import serving
from distft.report.sweep import page as sweep_page
from distft.report.sweep.drawings import sheet
from distft.report.sweep.jobs import find_sweep, read_sweep
from distft.report.sweep.page import write_table
from distft.report.sweep.settings import rank

FOLDERS = ("run", "sweep", "runs")
KEYS = {
    "run": "the run folder, finished or not",
    "sweep": "the sweep folder, finished or not",
    "runs": "[A,B]: run folders to compare on one page",
    "out": "of runs=: the page (default compare.html, next to the first run)",
    "serve": "of run=: true shows the page in the browser, made anew while the run goes on",
    "port": "of serve=true (default 0: any free one)",
}
CLAIM = (
    "Writes a self-contained page, report.html, from the files of a run or sweep into its folder.\n"
    "In addition, for a run curves.svg and curves.png; for a sweep sweep.svg, sweep.png and sweep.csv."
)


def main(arguments: list[str]) -> int:
    given = keywords(arguments, KEYS, required=[])
    check(given)
    if given.get("serve") == "true":
        return serve_run(given["run"], int(given.get("port", "0")))
    if "runs" in given:
        print(compare_runs(given["runs"], given.get("out")))
    else:
        print(report_run(given["run"]) if "run" in given else report_sweep(given["sweep"]))
    return 0


def check(given: dict[str, str]) -> None:
    """Raises ConfigError for keys that do not fit together, all at once."""
    folders, errors = [key for key in FOLDERS if key in given], []
    if len(folders) != 1:
        text = " ".join(f"{key}={given[key]}" for key in folders) or "run=, sweep= or runs="
        rule = "more than one is given" if folders else "none is given"
        errors.append(
            f"{text}: {rule}; a page shows one folder, or compares runs. Try: run=DIR, sweep=DIR or runs=[A,B]"
        )
    elif "out" in given and "runs" not in given:
        errors.append(f"out={given['out']}: only runs= takes it; other pages lie in their folder as report.html")
    if given.get("serve", "false") not in ("true", "false"):
        errors.append(f"serve={given['serve']}: is true or false")
    elif given.get("serve") == "true" and "run" not in given:
        errors.append("serve=true: shows one run. Try: run=DIR serve=true")
    port = given.get("port", "0")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        errors.append(f"port={port}: is a number from 0 to 65535")
    elif "port" in given and given.get("serve") != "true":
        errors.append(f"port={port}: only serve=true takes it")
    if errors:
        raise ConfigError(errors)


def report_run(value: str) -> Path:
    """Writes the page and curves of a run; returns the path of the page."""
    run = find_run(value)
    facts = gather(run)
    write_sheet(facts.rows, facts.name, run.path)
    page.write(facts, run.path / "report.html", run.path)
    card.refresh(run)
    return run.path / "report.html"


def serve_run(value: str, port: int) -> int:
    """Serves the page of a run until Ctrl-C; returns 0."""
    run, ends = find_run(value), {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # also in the server's threads
    try:
        with serving(run, port) as address:
            print(f"{address}  Ctrl-C ends it.", flush=True)
            signal.sigwait(ends)
    except OSError as error:
        raise ConfigError([f"port={port}: {error.strerror}. Try: another port, or none"]) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return 0


def report_sweep(value: str) -> Path:
    """Writes the page, the figures and the table of a sweep; returns the path of the page."""
    folder = find_sweep(value)
    sweep = read_sweep(folder)
    write_table(sweep, folder / "sweep.csv")
    save(sheet(sweep, rank(sweep)), folder / "sweep")
    sweep_page.write(sweep, folder / "report.html")
    return folder / "report.html"


def compare_runs(value: str, out: str | None) -> Path:
    """Writes the page that compares runs; returns its path."""
    folders = [each.strip() for each in value.removeprefix("[").removesuffix("]").split(",") if each.strip()]
    if not 2 <= len(folders) <= compare.MOST:
        names = f"names {len(folders)} run{'s' * (len(folders) != 1)}"
        raise ConfigError([f"runs={value}: {names}. Try: 2 to {compare.MOST} folders, as in [A,B]"])
    runs = [find_run(folder) for folder in folders]
    path = absolute(out) if out else runs[0].path.parent / "compare.html"
    if not path.parent.is_dir():
        raise ConfigError([f"out={out}: not a folder: {path.parent}"])
    compare.write(runs, path)
    return path


if __name__ == "__main__":
    command(main, help=usage("report", KEYS, CLAIM))
