"""Durable writes, and a file lock that is released when its process exits."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync(path: Path) -> None:
    """Syncs a file's bytes, or a folder's entries, to the disk, so that they survive a power loss."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Creates a folder and its parents, and syncs them, so that they survive a power loss.

    An existing parent may have just been created by another process, so every parent up to the root is synced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for parent in folder.parents:
        try:
            sync(parent)
        except OSError:  # owned by another user, so no run has created it
            break


@contextmanager
def replaced(file: Path) -> Iterator[Path]:
    """Yields a temporary path; at the end it is synced and renamed to `file`, which survives a power loss.

    After an OSError the temporary file is removed, and `file` is unchanged.
    """
    temporary = file.with_name(f".{file.name}.new")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync(file.parent)


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Yields whether this process (with its forks) holds the lock file `path`; never blocks."""
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
