"""The heartbeat of a rank: its step and phase in a small memory-mapped file on the node's own disk.

A beat is a store to memory, not a system call, so every micro-batch can make one; nothing is written to a shared
disk. The process that started the rank reads the file, even when the rank is stuck with the GIL held.
This module must not import torch: a rank beats from its first line on.
"""

import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distft.compat import collectives

OUTSIDE = ("start", "evaluation", "checkpoint", "end")  # not in a step
WORK = ("data", "forward", "backward", "optimizer")  # the rank's own work; in the others it waits for all ranks
PHASES = (*OUTSIDE, "border", *WORK, "communication", "core")  # core: runnable, but waiting for a CPU core
_FORM = struct.Struct(f"@6qd{len(PHASES)}d")  # pid, step, phase, beats, collectives, mark, seconds of step, of phases
_CORE = PHASES.index("core")
_MARK = 0x64697374667401  # written last: without it the file is not a whole beat yet
_SECONDS_BETWEEN_COUNTS = 0.2  # of collectives; each count costs a microsecond
_LEAST_SECONDS = 0.001  # of work between reads of the run queue time, which cost microseconds


@dataclass(frozen=True)
class Beat:
    """The last heartbeat of one rank."""

    pid: int
    step: int
    phase: str
    beats: int  # grows with every change of step, phase or micro-batch
    collectives: int  # entered so far, over all groups
    step_seconds: float  # of the last complete step; 0 before it
    seconds: dict[str, float]  # in each phase since the start; waits for collectives are communication


class RunQueue:
    """How long this thread was runnable but waited for a CPU core; always 0 where the kernel does not
    report it."""

    def __init__(self) -> None:
        try:
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        except OSError:
            self._file = None
        self._seconds = 0.0
        self.look()

    def look(self) -> float:
        """Returns the seconds since the last call."""
        if self._file is None:
            return 0.0
        before, self._seconds = self._seconds, int(os.pread(self._file, 64, 0).split()[1]) / 1e9
        return self._seconds - before


class Heart:
    """The heartbeat of this process."""

    def __init__(self, file: Path) -> None:
        """Creates the file in its full size."""
        with file.open("w+b") as opened:
            opened.truncate(_FORM.size)
            self._map = mmap.mmap(opened.fileno(), _FORM.size)
        self._step, self._phase, self._beats, self._collectives = 0, 0, 0, 0
        self._seconds = [0.0] * len(PHASES)
        self._since = self._step_since = time.perf_counter()
        self._step_seconds = 0.0
        self._worked = [0.0] * len(WORK)  # up to the last call of worked()
        self._thread = threading.get_ident()
        self._queue = RunQueue()
        self._write()

    def enter(self, phase: str) -> None:
        now = time.perf_counter()
        passed, queued = now - self._since, 0.0
        if passed > _LEAST_SECONDS:
            queued = min(self._queue.look(), passed)
        if self.phase not in WORK:  # other phases wait anyway
            queued = 0.0
        self._seconds[self._phase] += passed - queued
        self._seconds[_CORE] += queued
        self._since, self._phase = now, PHASES.index(phase)
        self._beats += 1
        self._write()

    def begin_step(self, step: int) -> None:
        now = time.perf_counter()
        if step == self._step + 1:
            self._step_seconds = now - self._step_since
        self._step, self._step_since = step, now
        self.enter("border")

    @property
    def phase(self) -> str:
        return PHASES[self._phase]

    @property
    def is_in_its_thread(self) -> bool:
        return threading.get_ident() == self._thread

    def worked(self) -> list[float]:
        """Returns the seconds in each phase of WORK since the last call."""
        now = [self._seconds[PHASES.index(phase)] for phase in WORK]
        before, self._worked = self._worked, now
        return [after - earlier for after, earlier in zip(now, before, strict=True)]

    def timed(self, wait: Callable[..., Any]) -> Callable[..., Any]:
        """Returns torch's wait for a collective, counted as communication for this thread, also inside a forward or
        backward; where a stream waits and not the host, as with NCCL, nothing is counted."""

        def recorded(*arguments: Any, **named: Any) -> Any:
            before = self.phase
            if before not in WORK or threading.get_ident() != self._thread:
                return wait(*arguments, **named)
            self.enter("communication")
            try:
                return wait(*arguments, **named)
            finally:
                self.enter(before)

        return recorded

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Updates the number of collectives from a thread, since the main thread waits inside of them.

        Trap: if the thread is inside torch when the interpreter exits, the process aborts.
        """
        over = threading.Event()

        def count() -> None:
            while not over.wait(_SECONDS_BETWEEN_COUNTS):
                entered = collectives.num_collectives()
                if entered > self._collectives:
                    self._collectives = entered
                    self._write()

        thread = threading.Thread(target=count, daemon=True, name="heartbeat")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _write(self) -> None:
        recorded = (os.getpid(), self._step, self._phase, self._beats, self._collectives, _MARK)
        _FORM.pack_into(self._map, 0, *recorded, self._step_seconds, *self._seconds)


# One per process, as a logger is: blocks deep in reads, copies and saves beat. Empty without a watchdog.
_heart: list[Heart] = []


def begin(folder: Path, rank: int) -> None:
    """Starts the heartbeat of this process in a file in `folder`; without it the other functions do nothing."""
    _heart[:] = [Heart(beat_file(folder, rank))]


def enter(phase: str) -> None:
    """Records that this process enters `phase`, one of PHASES, or the next part of it."""
    if _heart:
        _heart[0].enter(phase)


def begin_step(step: int) -> None:
    """Records that this process begins step `step`."""
    if _heart:
        _heart[0].begin_step(step)


def beat() -> None:
    """Records progress within the current phase; a long read or copy calls it for every block.

    In another thread it does nothing: progress of a background thread is not progress of the training.
    """
    if _heart and _heart[0].is_in_its_thread:
        _heart[0].enter(_heart[0].phase)


@contextmanager
def during(phase: str) -> Iterator[None]:
    """Records `phase` inside the block, and the previous phase after it."""
    before = _heart[0].phase if _heart else phase
    enter(phase)
    try:
        yield
    finally:
        enter(before)


def worked() -> list[float]:
    """Returns the compute seconds of this process in each phase of WORK since the last call."""
    return _heart[0].worked() if _heart else [0.0] * len(WORK)


@contextmanager
def counting_collectives() -> Iterator[None]:
    """Counts collectives, and separates the waits for them from compute time, inside a block with process groups."""
    if not _heart:
        yield
        return
    with _heart[0].counting(), collectives.replaced_wait(_heart[0].timed):
        yield


def beat_file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.beat"


def read(file: Path) -> Beat | None:
    """Returns a rank's last beat; None before its first one."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    if len(content) != _FORM.size:
        return None
    pid, step, phase, beats, collectives, mark, step_seconds, *seconds = _FORM.unpack(content)
    if mark != _MARK or not 0 <= phase < len(PHASES):
        return None
    return Beat(pid, step, PHASES[phase], beats, collectives, step_seconds, dict(zip(PHASES, seconds, strict=True)))
