"""Follows one attempt to its end: passes new metrics to the watchers and Ctrl-C to the run.

Trap: no signal is forwarded to the processes; a request to stop is a file, and the ranks save before they exit.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict

from distft.launchers.contract import Handle, Outcome
from distft.run import BENCHMARK, BY_YOU, RunFolder, read_row
from distft.run import MetricsRow as Row
from distft.runtime import stop
from distft.runtime.errors import Failure

_SECONDS_BETWEEN_LOOKS = 0.2  # polls of the process and of signals
_SECONDS_BETWEEN_READS = 0.5  # of metrics.jsonl; longer where the steps are longer
_READ_BYTES = 2**20
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class NewRows:
    """Reads new rows of metrics.jsonl; yields each step of a split once, across restarts.

    A resumed attempt drops rows after its checkpoint, maybe between two reads: if the line read last is no longer at
    its place, the whole file is read again.
    """

    def __init__(self, run: RunFolder):
        self._path = run.metrics
        self._end = 0
        self._last_line = b""
        self._last_step: dict[tuple[str, str], int] = {}  # by split, and text of a warning
        self._due = 0.0
        self._step_seconds = 0.0

    def read_when_due(self) -> Iterator[Row]:
        """Yields complete new rows; reads the file, on a disk that thousands may share, at most once per step."""
        if time.monotonic() >= self._due:
            yield from self.read()
            self._due = time.monotonic() + max(_SECONDS_BETWEEN_READS, self._step_seconds)

    def read(self) -> Iterator[Row]:
        """Yields complete new rows, in order."""
        for line in self._new_lines():
            row = read_row(line)
            self._step_seconds = row.get("seconds", self._step_seconds)
            kind = row["split"], row.get("text", "")
            if row["split"] == BENCHMARK:  # measured later, in any order
                kind = row["split"], str(row["step"])
            if row["step"] > self._last_step.get(kind, -1):
                self._last_step[kind] = row["step"]
                yield row

    def _new_lines(self) -> list[bytes]:
        try:
            file = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return []
        try:
            start = self._end - len(self._last_line)
            data = _read_from(file, start)
            if not data.startswith(self._last_line):
                start, self._last_line = 0, b""
                data = _read_from(file, start)
        finally:
            os.close(file)
        lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
        new = lines[1:] if self._last_line else lines
        self._end = start + sum(map(len, lines))
        self._last_line = lines[-1] if lines else b""
        return new


def _read_from(file: int, start: int) -> bytes:
    """Returns the bytes of a file from `start` on, without a stat call, which Python's own read makes."""
    data = b""
    while True:
        part = os.pread(file, _READ_BYTES, start + len(data))
        data += part
        if len(part) < _READ_BYTES or b"\n" not in part:  # the end, or not a text file: a device has no end
            return data


class Following:
    """One followed attempt; passes every row of metrics.jsonl to every watcher."""

    def __init__(
        self,
        run: RunFolder,
        handle: Handle,
        grace_seconds: float,
        watchers: Sequence[Callable[[Row], None]],
        say: Callable[[str], None],
    ):
        self.run = run
        self.handle = handle
        self._grace_seconds = grace_seconds
        self._watchers = watchers
        self._say = say
        self._rows = NewRows(run)
        self._deadline = float("inf")

    def look(self, caught: Sequence[signal.Signals], seconds: float = _SECONDS_BETWEEN_LOOKS) -> Outcome | None:
        """Returns the outcome of the attempt, None if it still runs after `seconds`; `caught`: the signals so far.

        The first requests that the run saves and stops; a later Ctrl-C, or the end of the grace period, kills it, and
        the outcome names the signal. Schedulers repeat their signal, so a repeated one changes nothing.
        """
        outcome = self.handle.wait(seconds)
        self._show(self._rows.read_when_due() if outcome is None else self._rows.read())
        if outcome is not None:
            return outcome
        if caught and self._deadline == float("inf"):
            by_hand = caught[0] == signal.SIGINT
            self.request_stop(f"{BY_YOU} Ctrl-C" if by_hand else f"{caught[0].name} to the launching process")
            self._say(
                f"{caught[0].name}: waiting for the step in progress to end and be saved, "
                f"{self._grace_seconds:.0f} s at most. Press Ctrl-C to end at once."
            )
        elif signal.SIGINT in caught[1:] or time.monotonic() > self._deadline:
            asked_twice = signal.SIGINT in caught[1:]
            why = "requested twice" if asked_twice else f"no step ended within {self._grace_seconds:.0f} s"
            outcome = _end_by_force(self.run, self.handle, caught[0] if caught else None, why, self._say)
            self._show(self._rows.read())
        return outcome

    def request_stop(self, reason: str) -> None:
        """Requests that the run saves and stops; the grace period begins."""
        self._deadline = time.monotonic() + self._grace_seconds
        stop.request(self.run, self.run.read_status()["attempt"], reason)  # a scheduler may have begun another

    def _show(self, new: Iterable[Row]) -> None:
        for row in new:
            for watch in self._watchers:
                watch(row)


def follow(
    run: RunFolder,
    handle: Handle,
    grace_seconds: float,
    watchers: Sequence[Callable[[Row], None]],
    say: Callable[[str], None],
    detaches: Callable[[signal.Signals], bool] = lambda _: False,
) -> Outcome:
    """Follows an attempt and returns its outcome; meanwhile signals to this process are for the run.

    detaches: returns whether the first signal ends the following only; the outcome then has the run's current state.
    """
    following = Following(run, handle, grace_seconds, watchers, say)
    asked = False
    with caught_signals() as caught:
        while (outcome := following.look(caught if asked else ())) is None:
            if caught and not asked:
                if detaches(caught[0]):
                    return Outcome(handle.state(), by_signal=caught[0])
                asked = True
    return outcome


@contextmanager
def caught_signals() -> Iterator[list[signal.Signals]]:
    """Yields a list; each signal to this process is appended to it instead of being handled."""
    caught: list[signal.Signals] = []
    before = {each: signal.getsignal(each) for each in _SIGNALS}
    for each in _SIGNALS:
        if each != signal.SIGHUP or before[each] is not signal.SIG_IGN:  # ignored under nohup
            signal.signal(each, lambda number, _: caught.append(signal.Signals(number)))
    try:
        yield caught
    finally:
        for each in _SIGNALS:
            signal.signal(each, before[each])


def _end_by_force(
    run: RunFolder, handle: Handle, cause: signal.Signals | None, why: str, say: Callable[[str], None]
) -> Outcome:
    """Kills every process of the run; cause: the signal behind the request to stop, if there was one."""
    request = cause.name if cause else "the request to stop"
    say(f"{request}, {why}: killing every process now, without a checkpoint.")
    handle.cancel()
    handle.wait(_SECONDS_BETWEEN_LOOKS)
    error = asdict(Failure.of_run(f"killed after {request} ({why}); the step in progress was not saved"))
    outcome = Outcome("failed", error, by_signal=cause)
    with suppress(OSError):
        reason = stop.reason_of(run, run.read_status()["attempt"])
        run.write_status(state="failed", exit_code=outcome.exit_code, error=error, reason=reason)
    return outcome
