"""Commits checkpoints and applies retention.

Every rename is synced before the next step relies on it, so after SIGKILL or a power loss either the older checkpoint
or the new one is there, complete.
"""

import fcntl
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from distft.checkpoint.format import (
    INDEX,
    MANIFEST,
    Manifest,
    read_index,
    read_manifest,
    step_dir,
    write_index,
    write_manifest,
)
from distft.runtime.disk import make_folder, sync
from distft.tasks.selection import BY_LOSS, Selection
from distft.tensors.integrity import Damaged


@dataclass(frozen=True)
class Retention:
    """Keeps the newest `keep` checkpoints, those at multiples of `every` steps, and the best."""

    keep: int
    every: int | None = None

    def expired(self, steps: list[int], best: int | None) -> list[int]:
        """Returns the steps to remove; steps: in ascending order."""
        return [s for s in steps[: -self.keep] if s != best and not (self.every and s % self.every == 0)]


@dataclass(frozen=True)
class Best:
    """The best evaluation of a run's checkpoints, by eval.metric; of step 0 where no checkpoint is better."""

    step: int
    value: float
    metric: str = "loss"


def best_at(
    checkpoints: Path, start_step: int, evals: Iterable[Mapping[str, Any]], selection: Selection = BY_LOSS
) -> Best | None:
    """Returns the best of a run that resumes from `start_step`; None where there is no evaluation before it.

    evals: rows of metrics.jsonl. Checkpoints after `start_step` belong to a history that the run abandons.
    """
    if start_step == 0:
        return None
    values = selection.values(list(evals))
    folder = best(checkpoints)
    if folder and (step := int(folder.name.removeprefix("step-"))) <= start_step:
        with suppress(Damaged):
            saved = _value_in(read_manifest(folder), selection)
            values |= {step: saved} if saved is not None else {}
    else:
        step = 0
    return Best(step, values[step], selection.metric) if step in values else None


def _value_in(manifest: Manifest, selection: Selection) -> float | None:
    """Returns the metric that a checkpoint was saved with; None where it was another one, or an older version's."""
    measured = manifest.get("held_out") or {"metric": "loss", "value": manifest.get("held_out_loss")}
    return selection.value({str(measured["metric"]): measured["value"]})


def complete(checkpoints: Path) -> list[Path]:
    """Returns the committed checkpoints, oldest first."""
    folders = [step_dir(checkpoints, step) for step in read_index(checkpoints)]
    return [folder for folder in folders if (folder / MANIFEST).is_file()]


def latest(checkpoints: Path) -> Path | None:
    """Returns the newest committed checkpoint."""
    found = complete(checkpoints)
    return found[-1] if found else None


def best(checkpoints: Path) -> Path | None:
    """Returns the checkpoint with the best evaluation (eval.metric), where one is better than before the first step.

    None when the link `best` points to something else than a committed checkpoint.
    """
    target = os.path.realpath(checkpoints / "best")
    return next((folder for folder in complete(checkpoints) if os.path.realpath(folder) == target), None)


def retain(checkpoints: Path, retention: Retention, superseded: set[int]) -> list[Path]:
    """Retires expired checkpoints and the `superseded` steps of an abandoned history.

    Returns the retired folders, which the caller deletes because that takes long. A checkpoint that another program
    is reading stays until the next call.
    """
    listed = read_index(checkpoints)
    steps = [step for step in listed if step_dir(checkpoints, step).exists()]
    kept, current = best(checkpoints), [step for step in steps if step not in superseded]
    gone = superseded | set(retention.expired(current, int(kept.name.removeprefix("step-")) if kept else None))
    retired = {step: _retire(step_dir(checkpoints, step)) for step in sorted(gone) if step in steps}
    gone -= {step for step, folder in retired.items() if folder is None}
    folders = [folder for folder in retired.values() if folder]
    if folders:
        sync(checkpoints)  # before the index drops them: an unlisted folder would never be deleted
    if set(listed) != set(steps) - gone:
        write_index(checkpoints, set(steps) - gone)
    return folders


def _retire(folder: Path) -> Path | None:
    """Renames a checkpoint, so that a partly deleted one is never read; returns its new name.

    None, without a change, while another program is reading it.
    """
    retired = folder.with_name(f".{folder.name}.leaving")
    with ExitStack() as held:
        with suppress(FileNotFoundError):
            if not _lock(held.enter_context((folder / MANIFEST).open())):
                return None
        shutil.rmtree(retired, ignore_errors=True)
        os.replace(folder, retired)  # under the lock: a reader that waits for it then finds it deleted
    return retired


def _lock(handle: TextIO) -> bool:
    """Returns whether the exclusive lock was taken; True on filesystems without locks, where readers are unknown."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def delete(folders: Sequence[Path]) -> None:
    """Deletes retired folders; the next save retries those that cannot be deleted."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Holds a read lock on `folder`, so that retention does not delete it; Damaged when it is already deleted."""
    manifest = folder / MANIFEST
    gone = f"{folder} has been deleted by retention (checkpoint.keep). Try: at=latest"
    try:
        handle = manifest.open()
    except FileNotFoundError as error:
        raise Damaged(gone) from error
    with handle:
        with suppress(OSError):  # a filesystem without locks
            fcntl.flock(handle, fcntl.LOCK_SH)
        if not (manifest.exists() and os.path.samestat(os.fstat(handle.fileno()), manifest.stat())):
            raise Damaged(gone)
        yield


def partial_dir(checkpoints: Path, step: int) -> Path:
    """Returns the folder in which a checkpoint is written before it is committed."""
    folder = step_dir(checkpoints, step)
    return folder.with_name(f".{folder.name}.partial")


def begin(checkpoints: Path, step: int, spared: Collection[Path] = ()) -> Path:
    """Makes an empty folder to write into, and deletes the leftovers of an interrupted save.

    spared: folders that another thread is deleting, so that training does not wait for them.
    """
    if not (checkpoints / INDEX).is_file():  # the run's first save
        make_folder(checkpoints)
    for left in checkpoints.glob(".step-*"):
        if left not in spared:
            shutil.rmtree(left, ignore_errors=True)
    for left in checkpoints.glob(".*.new"):
        left.unlink(missing_ok=True)
    partial = partial_dir(checkpoints, step)
    partial.mkdir(exist_ok=True)  # a leftover that a lagging listing did not show is overwritten
    return partial


def publish(checkpoints: Path, step: int, body: Manifest) -> Path:
    """Commits the written files of `step` with the manifest `body`, and points `latest` to it; returns its folder."""
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
    """Points the symlink `link` to `folder` by one rename, and syncs it to disk."""
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(folder.name)
    os.replace(new, link)
    sync(link.parent)


def being_saved(checkpoints: Path, step: int) -> Path | None:
    """Returns the folder of the checkpoint of `step`, committed or not; None where it could not be saved."""
    folders = (partial_dir(checkpoints, step), step_dir(checkpoints, step))
    return next((folder for folder in folders if folder.is_dir()), None)
