"""Stacks of all threads of a process on request, by SIGUSR2.

Python's faulthandler writes them inside the signal handler, in C, so a process that is stuck with the GIL held or in
a collective answers too.
"""

import faulthandler
import os
import re
import signal
import time
from pathlib import Path

_ASK = signal.SIGUSR2
_SECONDS_TO_ANSWER = 2.0
_SECONDS_QUIET = 0.1  # without output, after which an answer is complete
_FRAME = re.compile(r'^  File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<name>.+)$')


def answer(file: Path) -> None:
    """Makes this process write its stacks to `file` at every SIGUSR2."""
    faulthandler.register(_ASK, file=file.open("w"), all_threads=True)  # it keeps the file open


def ask(processes: dict[int, Path]) -> dict[int, str]:
    """Requests the stacks of processes; returns process -> stacks, empty for one that does not answer.

    processes: process -> its stack file. A stopped process is continued until it has answered.
    """
    before = {pid: _size(file) for pid, file in processes.items()}
    for pid in processes:
        _send(pid, _ASK)
        _send(pid, signal.SIGCONT)
    deadline = time.monotonic() + _SECONDS_TO_ANSWER
    sizes: dict[int, int] = {}
    while time.monotonic() < deadline:
        time.sleep(_SECONDS_QUIET)
        now = {pid: _size(file) for pid, file in processes.items()}
        if now == sizes and all(now[pid] > before[pid] for pid in processes):
            break
        sizes = now
    return {pid: _read(file, before[pid]) for pid, file in processes.items()}


def main_thread(stacks: str) -> list[str]:
    """Returns the frames of the main thread, which comes last: `file:line in function`, deepest last."""
    lines = stacks.strip().rpartition("\n\n")[2].splitlines()
    found = [match for line in lines if (match := _FRAME.match(line))]
    return [f"{each['file']}:{each['line']} in {each['name']}" for each in reversed(found)]


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _read(file: Path, start: int) -> str:
    return file.read_bytes()[start:].decode(errors="replace") if file.is_file() else ""
