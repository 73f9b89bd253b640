"""Which checkpoints there are, which one counts, and which may go."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distft.checkpoint.format import MANIFEST, step_dir
from distft.checkpoint.index import read_index, write_index
from distft.runtime.disk import sync


@dataclass(frozen=True)
class Retention:
    """Keeps the newest `keep` checkpoints, every one at a multiple of `every` steps, and the best."""

    keep: int
    every: int | None = None

    def goes(self, steps: list[int], best: int | None) -> list[int]:
        """Returns which of `steps`, in order, are kept no longer."""
        return [s for s in steps[: -self.keep] if s != best and not (self.every and s % self.every == 0)]


def complete(checkpoints: Path) -> list[Path]:
    """Returns the published checkpoints, oldest first."""
    folders = [step_dir(checkpoints, step) for step in read_index(checkpoints)]
    return [folder for folder in folders if (folder / MANIFEST).is_file()]


def latest(checkpoints: Path) -> Path | None:
    """Returns the newest published checkpoint."""
    found = complete(checkpoints)
    return found[-1] if found else None


def best(checkpoints: Path) -> Path | None:
    """Returns the checkpoint with the lowest held-out loss, where one is known."""
    link = checkpoints / "best"
    return link.resolve() if link.exists() else None


def retain(checkpoints: Path, retention: Retention, superseded: set[int]) -> list[Path]:
    """Takes away what is kept no longer, and `superseded` steps of a history that the run has left.

    Returns folders that count no more and are to be deleted, which takes its time. A checkpoint that another program
    is reading stays until the next time.
    """
    listed = read_index(checkpoints)
    steps = [step for step in listed if step_dir(checkpoints, step).exists()]
    kept, current = best(checkpoints), [step for step in steps if step not in superseded]
    gone = superseded | set(retention.goes(current, int(kept.name.removeprefix("step-")) if kept else None))
    gone = {step for step in gone if not _in_use(step_dir(checkpoints, step))}
    leaving = [_leave(step_dir(checkpoints, step)) for step in gone if step in steps]
    if leaving:
        sync(checkpoints)  # the index lists them until then: what it does not list would stay for ever
    if set(listed) != set(steps) - gone:
        write_index(checkpoints, set(steps) - gone)
    return leaving


def _leave(folder: Path) -> Path:
    """Makes a checkpoint vanish by a rename, so a half deleted one never counts; returns its new name."""
    leaving = folder.with_name(f".{folder.name}.leaving")
    shutil.rmtree(leaving, ignore_errors=True)
    os.replace(folder, leaving)
    return leaving


def delete(folders: Sequence[Path]) -> None:
    """Deletes folders that count no more; what cannot be deleted is for the next save to try."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Keeps `folder` from being deleted by a run that goes on meanwhile."""
    with (folder / MANIFEST).open() as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield


def _in_use(folder: Path) -> bool:
    try:
        with (folder / MANIFEST).open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
