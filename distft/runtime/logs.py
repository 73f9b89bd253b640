"""Where the output of a process goes."""

import faulthandler
import os
import sys
from pathlib import Path


def redirect(path: Path) -> None:
    """Sends everything this process and its children print to `path`, line by line, and crashes' stacks too.

    Works on file descriptors, so that output of C++ libraries is caught; call it before torch is imported.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]  # a real file
    faulthandler.enable(all_threads=True)


def last_lines(path: Path, count: int) -> list[str]:
    """Returns the last non-empty lines of a log that may be huge, or be missing."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        lines = file.read().decode(errors="replace").splitlines()
    return [line.rstrip() for line in lines if line.strip()][-count:]
