"""The heartbeat of a rank: where it is, in a small file mapped into its memory, on the node's own disk.

A beat is a store to memory, not a system call, so it may come at every micro-batch; nothing of it reaches a shared
disk. The process that started the rank reads the file, also when the rank is stuck with the interpreter's lock held.
Nothing here loads torch: a rank beats from its first line on.
"""

import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distft.compat import collectives

OUTSIDE = ("start", "evaluation", "checkpoint", "end")  # of a step
WORK = ("data", "forward", "backward", "optimizer")  # what a rank does itself; in the others it waits for all
PHASES = (*OUTSIDE, "border", *WORK, "communication", "core")  # core: ready to work, and no core was free
_FORM = struct.Struct(f"@6qd{len(PHASES)}d")  # pid, step, phase, beats, collectives, mark, seconds of step, of phases
_CORE = PHASES.index("core")
_MARK = 0x64697374667401  # written last: without it the file is not a whole beat yet
_SECONDS_BETWEEN_COUNTS = 0.2  # of collectives; each costs a microsecond
_LEAST_SECONDS = 0.001  # of work, after which the kernel is asked how much of it was no work; that costs microseconds


@dataclass(frozen=True)
class Beat:
    """What one rank last told."""

    pid: int
    step: int
    phase: str
    beats: int  # grows with every change of step, phase or micro-batch
    collectives: int  # that it has entered, over all its groups
    step_seconds: float  # of the last whole step; 0 before there is one
    seconds: dict[str, float]  # spent in each phase since the rank began; waits for collectives are communication


class RunQueue:
    """How long this thread was ready to run while other processes had the cores; nothing where the kernel counts it
    not."""

    def __init__(self) -> None:
        try:
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        except OSError:
            self._file = None
        self._seconds = 0.0
        self.look()

    def look(self) -> float:
        """Returns the seconds since the last look."""
        if self._file is None:
            return 0.0
        before, self._seconds = self._seconds, int(os.pread(self._file, 64, 0).split()[1]) / 1e9
        return self._seconds - before


class Heart:
    """The heartbeat of this process."""

    def __init__(self, file: Path) -> None:
        """Makes the file; it is as large as a beat from the start."""
        with file.open("w+b") as opened:
            opened.truncate(_FORM.size)
            self._map = mmap.mmap(opened.fileno(), _FORM.size)
        self._step, self._phase, self._beats, self._collectives = 0, 0, 0, 0
        self._seconds = [0.0] * len(PHASES)
        self._since = self._step_since = time.perf_counter()
        self._step_seconds = 0.0
        self._worked = [0.0] * len(WORK)  # up to the last question
        self._thread = threading.get_ident()
        self._queue = RunQueue()
        self._write()

    def enter(self, phase: str) -> None:
        now = time.perf_counter()
        passed, queued = now - self._since, 0.0
        if passed > _LEAST_SECONDS:
            queued = min(self._queue.look(), passed)
        if self.phase not in WORK:  # which waits anyhow
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

    @contextmanager
    def telling_waits(self) -> Iterator[None]:
        """Has the waits of this thread for collectives count as communication, also inside of a forward or backward.

        Trap: it stands in for torch's own method while the block lasts. Where a stream waits and not the host, as with
        NCCL, nothing is told.
        """
        work = sys.modules["torch.distributed"].Work
        wait = work.wait

        def told(*arguments: Any, **named: Any) -> Any:
            before = self.phase
            if before not in WORK or threading.get_ident() != self._thread:
                return wait(*arguments, **named)
            self.enter("communication")
            try:
                return wait(*arguments, **named)
            finally:
                self.enter(before)

        work.wait = told
        try:
            yield
        finally:
            work.wait = wait

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Keeps the number of collectives up to date from a thread, as the main one waits inside of them.

        Trap: the thread must not be inside of torch when the interpreter ends; the process would abort.
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
        told = (os.getpid(), self._step, self._phase, self._beats, self._collectives, _MARK)
        _FORM.pack_into(self._map, 0, *told, self._step_seconds, *self._seconds)


_heart: list[Heart] = []  # of this process, as its signal handlers are; none where nobody watches


def begin(folder: Path, rank: int) -> None:
    """Has this process beat from here on, into a file in `folder`; without it the other functions do nothing."""
    _heart[:] = [Heart(beat_file(folder, rank))]


def enter(phase: str) -> None:
    """Reports that this process goes on with `phase`, one of PHASES, or with the next piece of it."""
    if _heart:
        _heart[0].enter(phase)


def begin_step(step: int) -> None:
    """Reports that this process begins step `step`."""
    if _heart:
        _heart[0].begin_step(step)


def beat() -> None:
    """Reports that this process goes on in what it is in: a long read or copy does so at every block.

    In another thread than the first it does nothing: what goes on beside the work is no sign that the work does.
    """
    if _heart and _heart[0].is_in_its_thread:
        _heart[0].enter(_heart[0].phase)


@contextmanager
def during(phase: str) -> Iterator[None]:
    """Reports that this process is in `phase` inside the block, and in what it was in before after it."""
    before = _heart[0].phase if _heart else phase
    enter(phase)
    try:
        yield
    finally:
        enter(before)


def worked() -> list[float]:
    """Returns the seconds that this process itself has worked in each phase of WORK since the last call."""
    return _heart[0].worked() if _heart else [0.0] * len(WORK)


@contextmanager
def telling_collectives() -> Iterator[None]:
    """Counts the collectives that torch's process groups enter, and tells the waits for them from a rank's own work,
    inside a block in which there are groups."""
    if not _heart:
        yield
        return
    with _heart[0].counting(), _heart[0].telling_waits():
        yield


def beat_file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.beat"


def read(file: Path) -> Beat | None:
    """Returns a rank's last beat; None while it has not begun."""
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
