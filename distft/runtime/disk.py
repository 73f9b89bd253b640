"""What of a disk survives a loss of power."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def replaced(file: Path) -> Iterator[Path]:
    """Gives a name to write to; at the end that becomes `file`, by one rename, and would survive a loss of power.

    After an OSError nothing is left of it, and `file` is what it was.
    """
    beside = file.with_name(f".{file.name}.new")
    try:
        yield beside
        sync(beside)
        os.replace(beside, file)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync(file.parent)
