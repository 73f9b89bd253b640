"""A group of processes that is killed by SIGKILL at a random time, and what is found afterwards."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from distft.checkpoint.format import MANIFEST, rank_file, read_index, step_dir
from distft.runtime.process import start_bound
from tests.checkpoint.kills.group import STATE, Life
from tests.support.warm import python

SECONDS = 0.6  # a kill comes within these: several saves
APART = 0.03  # seconds between the kills of two processes
AIMS = (".*.partial/rank-*", ".*.partial/*manifest*", ".index.json.new", "step-*", ".latest.new", ".*.leaving")


@dataclass(frozen=True)
class Saves:
    """What a group said before it died."""

    started: int  # the last step whose save had begun
    saved: int  # the last one acknowledged, by any of its processes


class Groups:
    """Starts groups, one after the other, and kills them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def live(self, life: Life, chance: random.Random) -> Saves:
        """Lets a group save until a random instant, or one just after a name of AIMS has appeared."""
        self._ask(life.text())
        children = [int(child) for child in self._line("born").split()]
        first = self._line("starts")
        time.sleep(chance.uniform(0, SECONDS))
        if chance.random() < 0.5:
            await_new(Path(life.checkpoints), chance.choice(AIMS))
            time.sleep(chance.uniform(0, 0.004))
        for child in chance.sample(children, len(children)):
            os.kill(child, signal.SIGKILL)
            time.sleep(chance.choice([0, chance.uniform(0, APART)]))
        self._ask("killed")
        return self._saves(int(first), life.start)

    def _saves(self, started: int, saved: int) -> Saves:
        while (line := self._next()) != "dead":
            what, _, number = line.partition(" ")
            started = int(number) if what == "starts" else started
            saved = int(number) if what == "saved" else saved
        return Saves(started, saved)

    def _ask(self, text: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def _line(self, what: str) -> str:
        said, _, rest = self._next().partition(" ")
        assert said == what, (said, rest)
        return rest

    def _next(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the process that forks has ended"
        return line.rstrip("\n")


@contextmanager
def groups() -> Iterator[Groups]:
    command = [python(), "-m", "tests.checkpoint.kills.group"]
    process = start_bound(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Groups(process)
    finally:
        process.kill()
        process.wait()


def await_new(checkpoints: Path, pattern: str) -> None:
    """Returns when a name of `pattern` appears that was not there, or after some time."""

    def there() -> set[str]:
        return set(glob(pattern, root_dir=checkpoints, include_hidden=True))  # pathlib's raises when a folder goes

    old, end = there(), time.monotonic() + SECONDS
    while time.monotonic() < end and not there() - old:
        pass


def phase(checkpoints: Path, saves: Saves, world: int) -> str:
    """Returns what a kill came into, by what it left."""
    if saves.started == saves.saved:
        return "between two saves"
    folder = step_dir(checkpoints, saves.started)
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():
        if any(MANIFEST in each.name for each in partial.iterdir()):
            return _before_the_rename(checkpoints, saves.started)
        files = [partial / rank_file(rank) for rank in range(world)]
        written = sum(file.stat().st_size for file in files if file.exists())
        return "writing" if written < STATE else "syncing the files"
    if not folder.exists():
        return "beginning"
    if os.readlink(checkpoints / "latest") != folder.name:
        return "renamed, not latest"
    if list(checkpoints.glob(".*.leaving")):
        return "deleting"
    return "latest, not acknowledged"


def _before_the_rename(checkpoints: Path, step: int) -> str:
    if step in read_index(checkpoints):
        return "listed, not renamed"
    return "listing" if (checkpoints / ".index.json.new").exists() else "manifest"
