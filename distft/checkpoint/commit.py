"""How a checkpoint comes to count: everything on disk, then one rename. Only rank 0 does this.

Every name is synced before the next step relies on it, so neither SIGKILL nor a loss of power leaves anything but
the older checkpoint or the new one.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from distft.checkpoint.format import MANIFEST, step_dir
from distft.checkpoint.index import read_index, write_index
from distft.checkpoint.manifest import write_manifest
from distft.runtime.disk import sync


def partial_dir(checkpoints: Path, step: int) -> Path:
    """Returns where a checkpoint is written before it counts."""
    folder = step_dir(checkpoints, step)
    return folder.with_name(f".{folder.name}.partial")


def begin(checkpoints: Path, step: int) -> Path:
    """Makes an empty folder to write into, and removes what an interrupted save has left."""
    for left in checkpoints.glob(".step-*"):
        shutil.rmtree(left, ignore_errors=True)
    partial = partial_dir(checkpoints, step)
    partial.mkdir(parents=True)
    return partial


def publish(checkpoints: Path, step: int, body: dict[str, Any]) -> Path:
    """Makes the written files of `step` a checkpoint with the manifest `body`, and `latest`; returns its folder."""
    partial, folder = partial_dir(checkpoints, step), step_dir(checkpoints, step)
    write_manifest(partial, body)
    sync(partial / MANIFEST)
    sync(partial)
    write_index(checkpoints, {*read_index(checkpoints), step})
    if folder.exists():
        os.replace(folder, folder.with_name(f".{folder.name}.older"))
    os.replace(partial, folder)
    sync(checkpoints)
    point(checkpoints / "latest", folder)
    shutil.rmtree(folder.with_name(f".{folder.name}.older"), ignore_errors=True)
    return folder


def point(link: Path, folder: Path) -> None:
    """Makes `link` lead to `folder`, by one rename."""
    beside = link.with_name(f".{link.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(folder.name)
    os.replace(beside, link)
