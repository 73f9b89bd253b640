"""Kills this very run at chosen steps, resumes it, and holds every number against the uninterrupted run's.

Where the two differ the uninterrupted run is made once more: if these two are bit-equal the resumed one should have
been; if not, they are the noise that it is tested against.
"""

import signal
import subprocess
import sys

from rich.console import Console

from distft.config import command, help_text
from distft.data.key import prepared_dir
from distft.plan import make_plan
from distft.runtime.process import start_bound
from distft.trackers.terminal import screen
from distft.verify_resume.kills import KEYS, Asked, choose, read_arguments
from distft.verify_resume.runs import WORK, Recipe, RunFailed
from distft.verify_resume.verdict import prove


def main(arguments: list[str]) -> int:
    """Returns 0 when the resumed run is the uninterrupted one, 1 when it is not or a run failed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    return verify(read_arguments(arguments), screen(sys.stdout))


def verify(asked: Asked, console: Console, work: str = WORK) -> int:
    """Does what main does; work: what each rank does, a function around `verify_resume.watched.train`."""
    if prepared_dir(asked.config.values) is None:
        prepare(asked.overrides)
    first = Recipe(asked.config, make_plan(asked.config), work)
    later = first if asked.same_layout else Recipe(asked.later, make_plan(asked.later), work)
    kills = choose(asked.kills, asked.at, asked.config, first.plan)
    try:
        holds = prove(first, later, kills, asked.out, console)
    except RunFailed as error:
        console.print(str(error))
        return 1
    return 0 if holds else 1


def prepare(overrides: list[str]) -> None:
    """Runs `distft prepare` to its end; exits with its code when it failed."""
    code = start_bound([sys.executable, "-m", "distft.prepare", *overrides], stdin=subprocess.DEVNULL).wait()
    if code:
        sys.exit(code if code > 0 else 1)


if __name__ == "__main__":
    command(main, help=help_text("verify_resume", [(f"{key}=", text) for key, text in KEYS.items()]))
