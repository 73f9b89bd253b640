"""Output of processes: redirection to logs, robust streams to the user, noise of libraries."""

import faulthandler
import logging
import os
import select
import sys
import warnings
from pathlib import Path
from typing import TextIO


def redirect(path: Path) -> None:
    """Redirects the output of this process and its children to `path`, line by line, with stacks of crashes.

    It works on file descriptors, so it covers C++ libraries; call it before torch is imported.
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
    """A stream to the user that drops output that cannot be written: a closed terminal or pipe never ends the run, and
    a full pipe never blocks it."""

    SECONDS = 10.0  # wait for a slow reader; after that output is dropped until it reads again

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._text = ""
        self._is_read = True

    def write(self, text: str) -> int:
        self._text += text
        if "\n" in text:
            self.flush()
        return len(text)

    def flush(self) -> None:
        text, self._text = self._text, ""
        try:
            file = self.fileno()
        except (OSError, ValueError):  # not a file, in a test
            self._stream.write(text)
            return
        try:
            self._stream.flush()  # earlier output
            self._write(file, text.encode(self.encoding, errors="backslashreplace"))
        except OSError:  # buffered output would raise again at exit
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, file)
            os.close(nowhere)

    def _write(self, file: int, data: bytes) -> None:
        """Writes in chunks of PIPE_BUF, each once the pipe has room."""
        for start in range(0, len(data), select.PIPE_BUF):
            _, ready, _ = select.select([], [file], [], self.SECONDS if self._is_read else 0)
            self._is_read = bool(ready)
            if not ready:
                return
            os.write(file, data[start : start + select.PIPE_BUF])

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:
        return self._stream.encoding or "utf-8"


def last_lines(path: Path, count: int) -> list[str]:
    """Returns the last non-empty lines of a log, which may be huge or missing."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        lines = file.read().decode(errors="replace").splitlines()
    return [line.rstrip() for line in lines if line.strip()][-count:]


QUIET_VARIABLES = {
    "TOKENIZERS_PARALLELISM": "false",  # "The current process just got forked, after parallelism has already been used"
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # c10d's warnings about hostnames and reused ports
}
_LOGGERS = {
    "DeepSpeed": logging.ERROR,  # lines for each engine and each skipped step, which distft reports
    "torch.distributed.elastic": logging.ERROR,
    "torch.distributed.run": logging.ERROR,
    "filelock": logging.ERROR,
    "httpx": logging.ERROR,
}
_WARNINGS = (
    (r"`torch\.distributed\.\w+` is deprecated", FutureWarning),  # a line for each call of DeepSpeed
)


def silence() -> None:
    """Hides uninformative messages of libraries; call it before they are imported.

    Trap: DeepSpeed sets its logger's level on import, so call it again after that.
    """
    for name, value in QUIET_VARIABLES.items():
        os.environ.setdefault(name, value)
    for name, level in _LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    for pattern, category in _WARNINGS:
        warnings.filterwarnings("ignore", message=pattern, category=category)
