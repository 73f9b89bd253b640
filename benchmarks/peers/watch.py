"""Peak memory of a program and its children, measured from outside: the same measure for every peer.

The kernel keeps each process's highest resident size (VmHWM), so looking now and then misses only what grows in the
last moment before an end. Trap: ru_maxrss is not that: it inherits the size of the process that forked it.
"""

import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from distft.runtime.process import start_bound

_SECONDS_BETWEEN_LOOKS = 0.25


class Ended(RuntimeError):
    """A program that failed; the message has its exit code and the end of its log."""


def run_watched(command: Sequence[str], log: Path, environment: dict[str, str]) -> list[float]:
    """Runs `command` to its end; returns the peaks of all its processes in GiB, the largest first.

    Ended when its exit code is not 0. Ctrl-C ends the command too.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        process = start_bound(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=os.environ | environment
        )
        peaks: dict[int, float] = {}
        over = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peaks, over), daemon=True)
        watcher.start()
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the command gets it from the terminal too, and saves or ends
            process.wait()
            raise
        finally:
            over.set()
            watcher.join()
    if code != 0:
        last = "\n".join(log.read_text(errors="replace").strip().splitlines()[-5:])
        raise Ended(f"exit code {code}, log {log}: {last}")
    return sorted(peaks.values(), reverse=True)


def _watch(root: int, peaks: dict[int, float], over: threading.Event) -> None:
    while not over.wait(_SECONDS_BETWEEN_LOOKS):
        for pid in descendants(root):
            with suppress(OSError, ValueError):
                peaks[pid] = max(peaks.get(pid, 0.0), peak_gib(pid))


def descendants(root: int) -> Iterator[int]:
    """Yields `root` and every process below it."""
    yield root
    for thread in Path(f"/proc/{root}/task").glob("*/children"):
        with suppress(OSError):
            for child in thread.read_text().split():
                yield from descendants(int(child))


def peak_gib(pid: int) -> float:
    """Returns the highest resident size of a process so far; ValueError when it has just ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    raise ValueError(f"process {pid} has ended")
