"""How a checkpoint comes to count: everything on disk, then one rename. Only rank 0 does this.

Every name is synced before the next step relies on it, so neither SIGKILL nor a loss of power leaves anything but
the older checkpoint or the new one.
"""

import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from distft.checkpoint.format import step_dir
from distft.checkpoint.index import INDEX, read_index, write_index
from distft.checkpoint.manifest import write_manifest
from distft.runtime.disk import make_folder, sync


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
