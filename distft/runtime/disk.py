"""What of a disk survives a loss of power."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Returns when a file's bytes, or a folder's names, would survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Makes a folder and those it lies in; all would survive a loss of power when this returns.

    One that is there already may be as new, made by another process, so every one up to the root is synced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for parent in folder.parents:
        try:
            sync(parent)
        except OSError:  # another user's, so no run has made it
            break
