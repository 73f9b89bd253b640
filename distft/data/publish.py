"""Publishing prepared data: a folder appears whole or not at all, and a killed preparation leaves its finished part.

Trap: the locks of some network filesystems do not reach other machines, so the rename decides which folder wins.
"""

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distft.config.errors import Unavailable

CHUNKS_VERSION = 2  # increment when chunks have other columns: those of an older version are then not continued
STALE_SECONDS = 7 * 24 * 3600  # after which the finished part of a preparation that nobody continued is removed


class Interrupted(Unavailable):
    """A preparation was interrupted from outside; its finished part is kept, and the same command continues it."""


@contextmanager
def build_once(folder: Path, complete: str) -> Iterator[Path | None]:
    """Yields an empty folder to fill, which is renamed to `folder` at the end; None when `folder` exists already.

    complete: the name of the file that marks a finished folder. Processes of one machine wait for each other; on
    filesystems whose locks do not reach other machines several may build it, and the first rename wins.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        _wait(lock.fileno())
        if (folder / complete).is_file():
            yield None
            return
        mine = f".{folder.name}.{socket.gethostname()}."
        for left_over in folder.parent.glob(f"{mine}*"):  # of a killed process; this process holds the machine's lock
            shutil.rmtree(left_over, ignore_errors=True)
        partial = folder.parent / f"{mine}{os.getpid()}"
        partial.mkdir()
        try:
            yield partial
            _rename(partial, folder, complete)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _wait(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:  # a filesystem without locks: the rename alone decides
        return


def _rename(partial: Path, folder: Path, complete: str) -> None:
    for path in partial.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    try:
        partial.rename(folder)
    except OSError:
        if not (folder / complete).is_file():
            raise


@contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """Yields a folder for the finished part of the work on `folder`, kept if this process is interrupted or killed.

    It is removed at the end and after an error, which the same command would meet again.
    """
    host = socket.gethostname()
    work = folder.parent / f".{folder.name}.work.{CHUNKS_VERSION}.{host}"
    for other in folder.parent.glob(f".*.work.*{host}"):
        with suppress(OSError):  # removed by another process meanwhile
            if other != work and time.time() - other.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(other, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    try:
        yield work
    except (Unavailable, KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)
