"""Opens a folder, as left by a power loss, with the real code."""

import os
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from distft.checkpoint.format import INDEX, read_index, step_dir
from distft.checkpoint.load import Checkpoint, find
from distft.checkpoint.retention import begin
from distft.runtime.process_group import World
from tests.checkpoint.counted import is_whole
from tests.checkpoint.power.disk import Tree
from tests.checkpoint.power.replay import Promise, Save

NEXT = 99  # a step that is not there


@dataclass(frozen=True)
class Facts:
    """The checkpoint that a resumed run would find."""

    error: str
    found: Save | None = None
    whole: bool = False  # every number of it is right
    best: Save | None = None
    latest: str = ""
    listed: tuple[str, ...] = ()
    there: tuple[str, ...] = ()
    debris: tuple[str, ...] = ()  # after the next save has begun

    def broken(self, promise: Promise) -> str:
        """Returns the promise that does not hold, or an empty text."""
        possible = {promise.saved, promise.saving, *promise.left} - {None}
        if self.error:
            return f"it cannot be resumed: {self.error}"
        if self.found not in possible and (self.found or promise.saved):
            return f"{self.found} is found"
        if self.found and not self.whole:
            return f"{self.found} is found and is not what was saved"
        if not set(self.there) <= set(self.listed):
            return "a checkpoint is there that nobody will ever delete"
        if self.best != promise.best and not (promise.saving_best and self.best == promise.saving):
            return f"the best is {self.best}"
        if self.latest and self.latest not in self.there:
            return "latest leads nowhere"
        if self.debris:
            return f"{self.debris} stay"
        if promise.saved and not promise.saving and not promise.left:
            return self._broken_at_rest(step_dir(Path(), promise.saved[0]).name)
        return ""

    def _broken_at_rest(self, latest: str) -> str:
        if set(self.listed) != set(self.there):
            return "the index lists what was deleted"
        return "" if self.latest == latest else f"latest leads to {self.latest}"


def put(tree: Tree, path: Path) -> None:
    """Writes a state to disk."""
    if isinstance(tree, bytes):
        path.write_bytes(tree)
    elif isinstance(tree, str):
        path.symlink_to(tree)
    else:
        path.mkdir()
        for name, child in tree:
            put(child, path / name)


def look(disk: Path, world: World) -> Facts:
    """Returns what the real code finds in a run's folder, and then begins a save there."""
    checkpoints = disk / "run" / "checkpoints"
    try:
        with redirect_stdout(StringIO()) as output:
            checkpoint = find(checkpoints, "auto", world)
        listed = tuple(step_dir(checkpoints, step).name for step in read_index(checkpoints))
        there = tuple(sorted(each.name for each in checkpoints.glob("step-*")))
        latest = os.readlink(checkpoints / "latest") if (checkpoints / "latest").is_symlink() else ""
        best = checkpoints / "best"
        facts = {"best": _save(Checkpoint(best)) if best.is_symlink() else None, "latest": latest}
        if INDEX in output.getvalue():
            return Facts(output.getvalue())
        partial = begin(checkpoints, NEXT)
        debris = tuple(each.name for each in checkpoints.glob(".*") if each != partial)
        found, whole = (_save(checkpoint), is_whole(checkpoint)) if checkpoint else (None, False)
        return Facts("", found, whole, listed=listed, there=there, debris=debris, **facts)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        return Facts(f"{type(error).__name__}: {error}")


def _save(checkpoint: Checkpoint) -> Save:
    return checkpoint.step, checkpoint.manifest["attempt"]
