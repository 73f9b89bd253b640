"""`distft report run=DIR`, `sweep=DIR` or `runs=[A,B]`: makes the page and the figures from the files of the folder."""

import csv
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distft.config.command import JSON, command, find_run, keywords, usage
from distft.config.errors import ConfigError
from distft.paths import absolute
from distft.report import card, compare, compared, page
from distft.report.curves import save, write_sheet
from distft.report.facts import gather
from distft.report.serve import serving
from distft.report.sweep import page as sweep_page
from distft.report.sweep.drawings import sheet
from distft.report.sweep.jobs import find_sweep, read_sweep
from distft.report.sweep.page import write_table
from distft.report.sweep.settings import rank
from distft.report.tables import Table
from distft.run import json_text

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
    "In addition, for a run curves.svg and curves.png; for a sweep sweep.svg, sweep.png and sweep.csv.\n"
    f"{JSON} prints the page's path and its numbers as JSON."
)


def main(arguments: list[str]) -> int:
    given = keywords([each for each in arguments if each != JSON], KEYS, required=[])
    check(given)
    if given.get("serve") == "true":
        return serve_run(given["run"], int(given.get("port", "0")))
    if "runs" in given:
        made = compare_runs(given["runs"], given.get("out"))
    else:
        made = report_run(given["run"]) if "run" in given else report_sweep(given["sweep"])
    print(json_text({"page": str(made), **numbers_of(given)}, indent=2) if JSON in arguments else made)
    return 0


def numbers_of(given: Mapping[str, str]) -> Mapping[str, Any]:
    """Returns the numbers of a page that was just written, as JSON values."""
    if "run" in given:
        run = find_run(given["run"])
        facts = gather(run)
        tables = {"what": facts.what, "numbers": facts.numbers, "data": facts.data, "goodput": facts.goodput}
        return {**compared.as_json([run])[0], **{name: values_of(table) for name, table in tables.items()}}
    if "sweep" in given:
        with (find_sweep(given["sweep"]) / "sweep.csv").open(newline="") as file:
            return {"jobs": list(csv.DictReader(file))}
    return {"runs": compared.as_json([find_run(each) for each in folders_of(given["runs"])])}


def values_of(table: Table) -> dict[str, dict[str, str]]:
    return {fact.name: {"text": str(fact.text), "source": fact.source} for fact in table}


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


def folders_of(value: str) -> list[str]:
    return [each.strip() for each in value.removeprefix("[").removesuffix("]").split(",") if each.strip()]


def compare_runs(value: str, out: str | None) -> Path:
    """Writes the page that compares runs; returns its path."""
    folders = folders_of(value)
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
