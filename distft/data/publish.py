"""A folder that several processes want to make at once is made once, and seen whole or not at all."""

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def made_once(folder: Path, complete: str) -> Iterator[Path | None]:
    """Yields an empty folder to fill, which becomes `folder` by one rename; None when `folder` is there already.

    `complete` is the file that a whole folder has. Waits while another process of this machine fills it; on file
    systems whose locks do not reach other machines several may fill their own, and the first rename wins.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        _wait(lock.fileno())
        if (folder / complete).is_file():
            yield None
            return
        mine = f".{folder.name}.{socket.gethostname()}."
        for left_over in folder.parent.glob(f"{mine}*"):  # of a process that died: this machine's lock is ours
            shutil.rmtree(left_over, ignore_errors=True)
        beside = folder.parent / f"{mine}{os.getpid()}"
        beside.mkdir()
        try:
            yield beside
            _rename(beside, folder, complete)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _wait(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:  # a file system without locks: the rename alone decides
        return


def _rename(beside: Path, folder: Path, complete: str) -> None:
    for path in beside.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    try:
        beside.rename(folder)
    except OSError:
        if not (folder / complete).is_file():
            raise
