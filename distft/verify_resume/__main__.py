"""Kills a run at chosen steps, resumes it, and compares every number with the uninterrupted run's.

Where they differ, the uninterrupted run is repeated. If the two uninterrupted runs are bit-equal, the resumed one has
to be; if not, their difference is the noise floor.
"""

import signal
import subprocess
import sys

from rich.console import Console

from distft.config import command, help_text
from distft.data.key import prepared_dir
from distft.plan import make_plan
from distft.runtime.process import exits_on, start_bound
from distft.trackers.terminal import screen
from distft.verify_resume.kills import KEYS, Request, choose, read_arguments
from distft.verify_resume.runs import WORK, Recipe, RunFailed
from distft.verify_resume.verdict import prove


def main(arguments: list[str]) -> int:
    """Returns 0 when the resumed run equals the uninterrupted one, 1 when it does not or a run failed."""
    with exits_on(signal.SIGINT, signal.SIGTERM):
        return verify(read_arguments(arguments), screen(sys.stdout))


def verify(request: Request, console: Console, work: str = WORK) -> int:
    """Runs, kills, resumes and compares. work: dotted name of a function around `verify_resume.watched.train`."""
    if prepared_dir(request.config) is None:
        prepare(request.overrides)
    first = Recipe(request.config, make_plan(request.config), work)
    later = first if request.same_layout else Recipe(request.later, make_plan(request.later), work)
    kills = choose(request.kills, request.at, request.config, first.plan)
    try:
        holds = prove(first, later, kills, request.out, console)
    except RunFailed as error:
        console.print(str(error))
        return 1
    return 0 if holds else 1


def prepare(overrides: list[str]) -> None:
    """Runs `distft prepare`; exits with its code when it fails."""
    code = start_bound([sys.executable, "-m", "distft.prepare", *overrides], stdin=subprocess.DEVNULL).wait()
    if code:
        sys.exit(code if code > 0 else 1)


if __name__ == "__main__":
    command(main, help=help_text("verify_resume", [(f"{key}=", text) for key, text in KEYS.items()]))
