"""A disk of a few pages that a test can fill: a tmpfs, which root may mount."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = os.sysconf("SC_PAGE_SIZE")


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mounts a disk of `size` bytes at `folder`; skips the test where that is not possible."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root, and a machine that lets it")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Fills the disk up to `leave` free bytes; deleting the returned file makes room again."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    found = os.statvfs(disk)
    with filler.open("wb", buffering=0) as handle:
        try:
            handle.write(bytes(max(0, found.f_bavail * found.f_frsize - leave)))
        except OSError as full:  # somebody else has written meanwhile
            if full.errno != errno.ENOSPC:
                raise
        short = leave - os.statvfs(disk).f_bavail * found.f_frsize
        handle.truncate(max(0, handle.tell() - max(0, short)))
    return filler
