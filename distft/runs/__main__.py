"""Looks at runs and ends them: list, show, tail, stop; from any machine that sees the run folders."""

import sys
import time
from pathlib import Path

from distft.config import ConfigError, command
from distft.config.command import find_run, keywords
from distft.config.nearest import did_you_mean, nearest
from distft.goodput.account import goodput_of
from distft.launchers.follow import NewRows
from distft.paths import absolute
from distft.run import BY_YOU, RunFolder, state_in_words
from distft.runs.facts import facts, find_runs
from distft.runs.table import line_of, overview, shown
from distft.runtime import stop
from distft.trackers.terminal import screen

VERBS = {
    "list": "a table of all runs of a folder and of its sweeps: [runs_dir=runs]",
    "show": "state, speed, goodput, slowest rank and phase, last checkpoint, warnings, restarts: run=DIR",
    "tail": "the run's steps as they come, until it ends: run=DIR",
    "stop": "asks it to save at the next step border and end: run=DIR",
}
HELP = "usage: python -m distft.runs VERB [KEY=VALUE]\n\n" + "\n".join(f"  {k:<6}{v}" for k, v in VERBS.items())
_OVER = ("completed", "stopped_early", "preempted", "failed")


def main(arguments: list[str]) -> int:
    """Returns 0; of `tail` and `stop` 1 when there is nothing to follow or to stop."""
    verb, *rest = arguments or ["list"]
    if verb not in VERBS:
        raise ConfigError([f"{verb}: is none of {', '.join(VERBS)}.{did_you_mean(nearest(verb, VERBS))}"])
    if verb == "list":
        return list_runs(absolute(keywords(rest, {"runs_dir": "folder of runs"}, ()).get("runs_dir", "runs")))
    run = find_run(keywords(rest, {"run": "the run's folder"}, ("run",))["run"])
    return {"show": show, "tail": tail, "stop": ask_to_stop}[verb](run)


def list_runs(folder: Path) -> int:
    """Prints a line for each run, newest first."""
    if not folder.is_dir():
        raise ConfigError([f"runs_dir={folder}: there is no such folder"])
    screen(sys.stdout).print(overview(folder, [facts(run) for run in find_runs(folder)]))
    return 0


def show(run: RunFolder) -> int:
    """Prints how the run stands; the goodput of one that runs is up to now."""
    running = run.read_status()["state"] == "running"
    screen(sys.stdout).print(shown(facts(run, goodput_of(run) if running else None)))
    return 0


def tail(run: RunFolder) -> int:
    """Prints a line for each step and evaluation, earlier ones too, until the run has ended."""
    console, rows = screen(sys.stdout), NewRows(run)
    while True:
        is_over = run.read_status()["state"] in _OVER  # asked before the last look, so that no row is missed
        for row in rows.read():
            console.print(line_of(row))
        if is_over:
            console.print(f"{run.path.name}: {state_in_words(run.read_status())}")
            return 0
        time.sleep(1.0)


def ask_to_stop(run: RunFolder) -> int:
    """Leaves the request that the run's first rank looks for; 1 when the run is at its end already."""
    status = run.read_status()
    if status["state"] in _OVER:
        print(f"{run.path.name}: {status['state']} already", file=sys.stderr)
        return 1
    stop.request(run, status["attempt"], f"{BY_YOU} distft runs stop")
    print(f"{run.path.name} saves at the end of the step in progress, and stops. The same launch goes on with it.")
    return 0


def entry(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    command(entry, help=HELP)
