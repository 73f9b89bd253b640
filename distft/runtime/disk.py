"""Durable writes, and a lock that ends with its process."""

import fcntl
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


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Yields whether this process, and the ones it forks, hold the lock file `path`; never waits for another's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield _take(file)
    finally:
        os.close(file)


def _take(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
