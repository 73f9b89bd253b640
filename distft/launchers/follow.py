"""Watches one attempt from its start to its end: new metrics to the watchers, Ctrl-C to the run.

Trap: nothing is forwarded to the processes; a request to stop is a file, and they save before they end.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from distft.launchers.contract import Handle, Outcome
from distft.run import RunFolder
from distft.runtime import stop
from distft.runtime.errors import Failure

Row = dict[str, Any]
_SECONDS_BETWEEN_LOOKS = 0.2  # at the process, and for signals
_SECONDS_BETWEEN_READS = 0.5  # of metrics.jsonl; longer where the steps are longer
_READ_BYTES = 2**20
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class NewRows:
    """Reads what was added to metrics.jsonl; every step of a split is given once, also over restarts.

    A resumed attempt cuts rows that no checkpoint holds, maybe between two looks: the line that was read last is held
    against the file, and when it is not there any more everything is read again.
    """

    def __init__(self, run: RunFolder):
        self._path = run.metrics
        self._end = 0
        self._last_line = b""
        self._last_step: dict[str, int] = {}
        self._due = 0.0
        self._step_seconds = 0.0

    def read_when_due(self) -> Iterator[Row]:
        """Yields complete new rows; looks at the file, on a disk that thousands may share, once a step at most."""
        if time.monotonic() >= self._due:
            yield from self.read()
            self._due = time.monotonic() + max(_SECONDS_BETWEEN_READS, self._step_seconds)

    def read(self) -> Iterator[Row]:
        """Yields complete new rows, in order."""
        for line in self._new_lines():
            row = json.loads(line)
            self._step_seconds = row.get("seconds", self._step_seconds)
            if row["step"] > self._last_step.get(row["split"], -1):
                self._last_step[row["split"]] = row["step"]
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
    """Returns what a file holds from byte `start` on; asks for no more than that, where Python's own asks its size."""
    data = b""
    while True:
        part = os.pread(file, _READ_BYTES, start + len(data))
        data += part
        if len(part) < _READ_BYTES or b"\n" not in part:  # the end, or no file of lines: a device has no end
            return data


def follow(
    run: RunFolder,
    handle: Handle,
    attempt: int,
    grace_seconds: float,
    watchers: Sequence[Callable[[Row], None]],
    say: Callable[[str], None],
) -> Outcome:
    """Returns how the attempt ended; every row of metrics.jsonl has been given to every watcher.

    A first signal asks the run to save and stop; Ctrl-C after it, or `grace_seconds`, ends it by force, and the outcome
    names the signal. Schedulers send theirs more than once and mean no more by that.
    """
    rows = NewRows(run)

    def show(new: Iterable[Row]) -> None:
        for row in new:
            for watch in watchers:
                watch(row)

    with _caught(_SIGNALS) as caught:
        deadline = float("inf")
        while True:
            outcome = handle.wait(_SECONDS_BETWEEN_LOOKS)
            show(rows.read_when_due() if outcome is None else rows.read())
            if outcome is not None:
                return outcome
            if caught and deadline == float("inf"):
                deadline = time.monotonic() + grace_seconds
                _ask_to_stop(run, attempt, caught[0], grace_seconds, say)
            elif signal.SIGINT in caught[1:] or time.monotonic() > deadline:
                why = "asked twice" if signal.SIGINT in caught[1:] else f"no step ended within {grace_seconds:.0f} s"
                outcome = _end_by_force(run, handle, caught[0], why, say)
                show(rows.read())
                return outcome


@contextmanager
def _caught(signals: Sequence[signal.Signals]) -> Iterator[list[signal.Signals]]:
    caught: list[signal.Signals] = []
    before = {each: signal.getsignal(each) for each in signals}
    for each in signals:
        if each != signal.SIGHUP or before[each] is not signal.SIG_IGN:  # nohup ignores it on purpose
            signal.signal(each, lambda number, _: caught.append(signal.Signals(number)))
    try:
        yield caught
    finally:
        for each in signals:
            signal.signal(each, before[each])


def _ask_to_stop(
    run: RunFolder, attempt: int, cause: signal.Signals, grace_seconds: float, say: Callable[[str], None]
) -> None:
    stop.request(run, attempt, f"{cause.name} to the launching process")
    say(
        f"{cause.name}: waiting for the step in progress to end and be saved, {grace_seconds:.0f} s at most. "
        "Press Ctrl-C to end at once."
    )


def _end_by_force(
    run: RunFolder, handle: Handle, cause: signal.Signals, why: str, say: Callable[[str], None]
) -> Outcome:
    say(f"{cause.name}, {why}: ending every process now, without a checkpoint.")
    handle.cancel()
    handle.wait(_SECONDS_BETWEEN_LOOKS)
    error = asdict(Failure.of_run(f"ended by force after {cause.name} ({why}); the step in progress was not saved"))
    outcome = Outcome("failed", error, by_signal=cause)
    with suppress(OSError):
        run.write_status(state="failed", exit_code=outcome.exit_code, error=error)
    return outcome
