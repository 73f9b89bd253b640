"""Committing a checkpoint and removing those that are no longer kept.

Every name is synced before the next step relies on it, so neither SIGKILL nor a loss of power leaves anything but
the older checkpoint or the new one.
"""

import fcntl
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, TextIO

from distft.checkpoint.format import INDEX, MANIFEST, read_index, read_manifest, step_dir, write_index, write_manifest
from distft.runtime.disk import make_folder, sync
from distft.tensors.integrity import Damaged


@dataclass(frozen=True)
class Retention:
    """Keeps the newest `keep` checkpoints, every one at a multiple of `every` steps, and the best."""

    keep: int
    every: int | None = None

    def goes(self, steps: list[int], best: int | None) -> list[int]:
        """Returns which of `steps`, in order, are kept no longer."""
        return [s for s in steps[: -self.keep] if s != best and not (self.every and s % self.every == 0)]


@dataclass(frozen=True)
class Best:
    """The lowest held-out loss of a run's checkpoints; that of step 0 where no checkpoint's is lower."""

    step: int
    loss: float


def best_at(checkpoints: Path, start_step: int, evals: Iterable[Mapping[str, Any]]) -> Best | None:
    """Returns the best of a run that goes on from `start_step`; None where nothing was evaluated, or will be again.

    evals: the rows of metrics.jsonl. A checkpoint after `start_step` is of a history that the run leaves.
    """
    if start_step == 0:
        return None
    losses = {row["step"]: row["loss"] for row in evals}
    folder = best(checkpoints)
    if folder and (step := int(folder.name.removeprefix("step-"))) <= start_step:
        with suppress(Damaged):
            losses[step] = read_manifest(folder).get("held_out_loss", losses.get(step))  # older versions wrote none
    else:
        step = 0
    found = losses.get(step)
    return Best(step, found) if found is not None and isfinite(found) else None


def complete(checkpoints: Path) -> list[Path]:
    """Returns the published checkpoints, oldest first."""
    folders = [step_dir(checkpoints, step) for step in read_index(checkpoints)]
    return [folder for folder in folders if (folder / MANIFEST).is_file()]


def latest(checkpoints: Path) -> Path | None:
    """Returns the newest published checkpoint."""
    found = complete(checkpoints)
    return found[-1] if found else None


def best(checkpoints: Path) -> Path | None:
    """Returns the checkpoint with the lowest held-out loss, where one is lower than that before the first step; a link
    that leads elsewhere is none."""
    folder = os.path.realpath(checkpoints / "best")
    return next((each for each in complete(checkpoints) if os.path.realpath(each) == folder), None)


def retain(checkpoints: Path, retention: Retention, superseded: set[int]) -> list[Path]:
    """Takes away what is kept no longer, and `superseded` steps of a history that the run has left.

    Returns folders that count no more and are to be deleted, which takes its time. A checkpoint that another program
    is reading stays until the next time.
    """
    listed = read_index(checkpoints)
    steps = [step for step in listed if step_dir(checkpoints, step).exists()]
    kept, current = best(checkpoints), [step for step in steps if step not in superseded]
    gone = superseded | set(retention.goes(current, int(kept.name.removeprefix("step-")) if kept else None))
    leaving = {step: _leave(step_dir(checkpoints, step)) for step in sorted(gone) if step in steps}
    gone -= {step for step, folder in leaving.items() if folder is None}
    folders = [folder for folder in leaving.values() if folder]
    if folders:
        sync(checkpoints)  # the index lists them until then: what it does not list would stay for ever
    if set(listed) != set(steps) - gone:
        write_index(checkpoints, set(steps) - gone)
    return folders


def _leave(folder: Path) -> Path | None:
    """Makes a checkpoint vanish by a rename, so a half deleted one never counts; returns its new name.

    None, and nothing is changed, while another program is reading it.
    """
    leaving = folder.with_name(f".{folder.name}.leaving")
    with ExitStack() as held:
        with suppress(FileNotFoundError):
            if not _lock(held.enter_context((folder / MANIFEST).open())):
                return None
        shutil.rmtree(leaving, ignore_errors=True)
        os.replace(folder, leaving)  # under the lock: whoever comes to read it now will find it gone
    return leaving


def _lock(handle: TextIO) -> bool:
    """Returns whether nobody reads; on a disk that knows no locks nobody can tell, and it is taken for granted."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def delete(folders: Sequence[Path]) -> None:
    """Deletes folders that count no more; what cannot be deleted is for the next save to try."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Keeps `folder` from being deleted by a run that goes on meanwhile; Damaged when that has just happened."""
    manifest = folder / MANIFEST
    gone = f"{folder} has been deleted meanwhile, as checkpoint.keep has it. Try: at=latest"
    try:
        handle = manifest.open()
    except FileNotFoundError as error:
        raise Damaged(gone) from error
    with handle:
        with suppress(OSError):  # a disk that knows no locks
            fcntl.flock(handle, fcntl.LOCK_SH)
        if not (manifest.exists() and os.path.samestat(os.fstat(handle.fileno()), manifest.stat())):
            raise Damaged(gone)
        yield


def partial_dir(checkpoints: Path, step: int) -> Path:
    """Returns where a checkpoint is written before it counts."""
    folder = step_dir(checkpoints, step)
    return folder.with_name(f".{folder.name}.partial")


def begin(checkpoints: Path, step: int, spared: Collection[Path] = ()) -> Path:
    """Makes an empty folder to write into, and removes what an interrupted save has left.

    spared: folders that another thread is deleting, for which training is not to wait.
    """
    if not (checkpoints / INDEX).is_file():  # the run's first save
        make_folder(checkpoints)
    for left in checkpoints.glob(".step-*"):
        if left not in spared:
            shutil.rmtree(left, ignore_errors=True)
    for left in checkpoints.glob(".*.new"):
        left.unlink(missing_ok=True)
    partial = partial_dir(checkpoints, step)
    partial.mkdir(exist_ok=True)  # what a listing that lags has not shown is written over
    return partial


def publish(checkpoints: Path, step: int, body: dict[str, Any]) -> Path:
    """Makes the written files of `step` a checkpoint with the manifest `body`, and `latest`; returns its folder."""
    partial, folder = partial_dir(checkpoints, step), step_dir(checkpoints, step)
    write_manifest(partial, body)
    write_index(checkpoints, {*read_index(checkpoints), step})
    if folder.exists():
        os.replace(folder, folder.with_name(f".{folder.name}.older"))
    os.replace(partial, folder)
    sync(checkpoints)
    point(checkpoints / "latest", folder)
    shutil.rmtree(folder.with_name(f".{folder.name}.older"), ignore_errors=True)
    return folder


def point(link: Path, folder: Path) -> None:
    """Makes `link` lead to `folder`, by one rename; it would survive a loss of power when this returns."""
    beside = link.with_name(f".{link.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(folder.name)
    os.replace(beside, link)
    sync(link.parent)


def being_saved(checkpoints: Path, step: int) -> Path | None:
    """Returns where the checkpoint of `step` is, before or after it counts; None where it could not be saved."""
    return next((each for each in (partial_dir(checkpoints, step), step_dir(checkpoints, step)) if each.is_dir()), None)
