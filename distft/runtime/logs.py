"""Where the output of a process goes."""

import faulthandler
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO


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


class Patient:
    """A stream to the user that drops what can no longer be shown: a closed terminal or pipe never ends the run."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:  # what is buffered would raise again when the interpreter ends
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:
        return self._stream.encoding


def last_lines(path: Path, count: int) -> list[str]:
    """Returns the last non-empty lines of a log that may be huge, or be missing."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        lines = file.read().decode(errors="replace").splitlines()
    return [line.rstrip() for line in lines if line.strip()][-count:]
