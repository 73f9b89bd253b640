"""`distft runs`: lists, shows, follows, stops, compares and deletes runs, on any machine that shares their folders."""

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distft.config import ConfigError, command
from distft.config.command import JSON, find_run, keywords
from distft.config.errors import did_you_mean, nearest
from distft.goodput import goodput_of
from distft.launchers.follow import NewRows
from distft.paths import absolute
from distft.report import compared
from distft.run import BY_YOU, FINISHED, RunFolder, json_text, state_in_words
from distft.runs import disk
from distft.runs.compare import comparison, difference
from distft.runs.facts import facts, find_runs
from distft.runs.tables import as_json as json_of
from distft.runs.tables import line_of, overview, shown
from distft.runtime import stop
from distft.trackers.terminal import screen

VERBS = {
    "list": "a table of all runs in a folder and its sweeps",
    "show": "state, speed, goodput, slowest rank and phase, last checkpoint, warnings, restarts: RUN",
    "tail": "follows the run's steps until it ends: RUN",
    "stop": "requests that it saves at the next step border and ends: RUN",
    "compare": "settings that differ, held-out metrics and what training took, next to each other: RUN RUN ...",
    "diff": "all that two runs were made of differently: settings, rows, weights, packages, machine: RUN RUN",
    "du": "what each run takes on the disk, by part",
    "rm": "deletes a run, or all runs of a sweep, that nothing uses: RUN ... [only=checkpoints] [yes=true]",
}
KEYS = {
    "run": "a run's folder, or its name in runs_dir; `run=` may be left out",
    "runs_dir": "folder of runs (default runs)",
    "only": "of rm: checkpoints, after which the run cannot be continued; everything else stays",
    "yes": "of rm: true deletes without a question, as a script needs it",
}
OF_VERB = {"list": ("runs_dir",), "du": ("runs_dir",), "rm": ("run", "runs_dir", "only", "yes")}
WITH_JSON = ("list", "show", "compare", "diff", "du")
COUNTS = {"list": (0, 0), "du": (0, 0), "compare": (2, 99), "diff": (2, 2), "rm": (1, 99)}  # runs; others have one
HELP = (
    "usage: python -m distft.runs VERB [RUN ...] [KEY=VALUE ...] [--json]\n\n"
    + "\n".join(f"  {name:<9}{text}" for name, text in VERBS.items())
    + "\n\n"
    + "\n".join(f"  {name + '=':<10}{text}" for name, text in KEYS.items())
    + f"\n\n  {JSON:<10}of {', '.join(WITH_JSON)}: the same as JSON"
)
_IS_KEY = re.compile(r"\w+=")  # names of jobs have a `=` too: 000-lr=0.1
_ENDED = (*FINISHED, "preempted", "failed")


@dataclass(frozen=True)
class Given:
    """The arguments of a verb."""

    runs: Sequence[Path]  # folders, which need not hold runs
    runs_dir: Path
    only: str | None = None
    is_sure: bool = False
    as_json: bool = False


def main(arguments: list[str]) -> int:
    """Returns 0; 1 when `stop` finds that the run has already ended, or a question is answered with no."""
    verb, *rest = arguments or ["list"]
    if verb not in VERBS:
        raise ConfigError(
            [f"{verb}: unknown command. Allowed: {', '.join(VERBS)}.{did_you_mean(nearest(verb, VERBS))}"]
        )
    given = read(verb, rest)
    if verb == "list":
        return list_runs(given)
    if verb == "du":
        return usage_of_disk(given)
    if verb == "rm":
        return remove(given)
    runs = [find_run(str(path)) for path in given.runs]
    if verb in ("compare", "diff"):
        return {"compare": compare, "diff": diff}[verb](runs, as_json=given.as_json)
    if verb == "show":
        return show(*runs, as_json=given.as_json)
    return {"tail": tail, "stop": stop_run}[verb](*runs)


def read(verb: str, arguments: Sequence[str]) -> Given:
    """Returns the arguments of a verb; ConfigError with all that is wrong with them."""
    errors = list[str]()
    words = [each for each in arguments if each != JSON]
    if JSON in arguments and verb not in WITH_JSON:
        errors.append(f"{JSON}: {verb} prints no JSON. Allowed: {', '.join(WITH_JSON)}")
    plain = [word for word in words if not (word.startswith("-") or _IS_KEY.match(word))]
    named = [word for word in words if word.startswith("run=") and word != "run="]
    known = {key: KEYS[key] for key in OF_VERB.get(verb, ("run", "runs_dir"))}
    try:
        others = keywords([word for word in words if word not in (*plain, *named)], known, ())
    except ConfigError as error:
        errors += error.messages
        others = {}
    least, most = COUNTS.get(verb, (1, 1))
    names = [*plain, *(word.removeprefix("run=") for word in named)]
    if not names and least:
        errors.append(f"run is missing: {KEYS['run']}. Try: distft runs {verb}{' NAME' * least}")
    elif len(names) < least:
        errors.append(f"{names[0]}: {verb} takes {least} runs. Try: distft runs {verb} {names[0]} NAME")
    elif len(names) > most:
        errors.append(f"{' '.join(names)}: {verb} takes {most or 'no'} run{'s' * (most != 1)}. Try: distft runs --help")
    if others.get("only", "checkpoints") != "checkpoints":
        errors.append(f"only={others['only']}: is checkpoints, or not given. Try: only=checkpoints")
    if others.get("yes", "true") not in ("true", "false"):
        errors.append(f"yes={others['yes']}: is true or false. Try: yes=true")
    if errors:
        raise ConfigError(errors)
    folder = absolute(others.get("runs_dir", "runs"))
    runs = [_place(name, folder) for name in names]
    return Given(runs, folder, others.get("only"), others.get("yes") == "true", JSON in arguments)


def _place(name: str, folder: Path) -> Path:
    """Returns the folder that a name means: a path, else a run of `folder`."""
    path = absolute(name)
    return folder / name if not path.is_dir() and (folder / name).is_dir() else path


def list_runs(given: Given) -> int:
    """Prints a line for each run, newest first."""
    found = [facts(run) for run in find_runs(_existing(given.runs_dir))]
    _print([json_of(each) for each in found] if given.as_json else overview(given.runs_dir, found))
    return 0


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise ConfigError([f"runs_dir={folder}: there is no such folder, and so no run. Try: runs_dir=FOLDER"])
    return folder


def _print(shown: Any) -> None:
    """Prints a table, or JSON values."""
    if isinstance(shown, list | dict):
        print(json_text(shown, indent=2))
    else:
        screen(sys.stdout).print(shown)


def show(run: RunFolder, *, as_json: bool = False) -> int:
    """Prints the state of a run; its goodput up to now while it is running."""
    running = run.read_status()["state"] == "running"
    found = facts(run, goodput_of(run) if running else None)
    _print(json_of(found) if as_json else shown(found))
    return 0


def tail(run: RunFolder) -> int:
    """Prints a line for each step and evaluation from the start of the run until it has ended."""
    console, rows = screen(sys.stdout), NewRows(run)
    while True:
        is_ended = run.read_status()["state"] in _ENDED  # read before the last rows, so that none is missed
        for row in rows.read():
            console.print(line_of(row))
        if is_ended:
            console.print(f"{run.path.name}: {state_in_words(run.read_status())}")
            return 0
        time.sleep(1.0)


def stop_run(run: RunFolder) -> int:
    """Writes the stop request that rank 0 polls; returns 1 when the run has already ended."""
    status = run.read_status()
    if status["state"] in _ENDED:
        print(f"{run.path.name}: already {status['state']}", file=sys.stderr)
        return 1
    stop.request(run, status["attempt"], f"{BY_YOU} distft runs stop")
    print(f"{run.path.name} saves at the end of the step in progress, and stops. The same launch command continues it.")
    return 0


def compare(runs: Sequence[RunFolder], *, as_json: bool) -> int:
    """Prints runs next to each other."""
    _print(compared.as_json(runs) if as_json else comparison(runs))
    return 0


def diff(runs: Sequence[RunFolder], *, as_json: bool) -> int:
    """Prints what two runs were made of differently."""
    found = difference(*runs)
    if as_json:
        _print(found)
        return 0
    before, after = (run.path for run in runs)
    print(f"{before} -> {after}" if found else f"{before} and {after}: nothing differs but the place")
    for kind, lines in found.items():
        print(kind)
        for line in lines:
            print(f"  {line}")
    return 0


def usage_of_disk(given: Given) -> int:
    """Prints what each run takes on the disk."""
    folder = _existing(given.runs_dir)
    used = {str(run.path.relative_to(folder)): disk.sizes(run) for run in find_runs(folder)}
    _print(used if given.as_json else disk.usage_table(folder, used))
    return 0


def remove(given: Given) -> int:
    """Deletes runs, or only their checkpoints, after a question; returns 1 when it is answered with no."""
    doomed, errors = dict[Path, list[RunFolder]](), list[str]()
    for folder in dict.fromkeys(given.runs):
        try:
            if not given.only:
                disk.refuse_job_of_sweep(folder)
            doomed[folder] = disk.to_delete(folder)
        except ConfigError as error:
            errors += error.messages
    if not errors and not given.is_sure and not (sys.stdin.isatty() and sys.stdout.isatty()):
        errors = [f"run={folder}: nobody is asked here before it is deleted. Try: yes=true" for folder in doomed]
    if errors:
        raise ConfigError(errors)
    for folder, runs in doomed.items():
        used = [disk.sizes(run) for run in runs]
        size = disk.size_in_words(sum(each["checkpoints"] if given.only else sum(each.values()) for each in used))
        what = f"{folder}: {given.only or 'all'} of it, {size}"
        if not given.is_sure and not _agrees(f"{what} ({_about(runs)}). Delete for good? [y/N] "):
            return 1
        checkpoints = [run.checkpoints for run in runs if run.checkpoints.is_dir()]
        disk.delete(folder, checkpoints if given.only else [folder])
        print(f"{what}, deleted")
    return 0


def _about(runs: Sequence[RunFolder]) -> str:
    states = [state_in_words(run.read_status()) for run in runs]
    if len(runs) == 1:
        return f"{states[0]}, step {runs[0].read_status()['step']}"
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "no runs"


def _agrees(question: str) -> bool:
    try:
        return input(question).strip().lower().startswith("y")
    except EOFError:
        return False


def entry(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    command(entry, help=HELP)
