"""What every tracker offers. A tracker is fed by the launching process, so that the ranks open no sockets."""

import queue
import sys
import threading
from typing import Any, Protocol

from distft.run import RunFolder
from distft.runtime.environment import redact
from distft.runtime.logs import Patient

Row = dict[str, Any]


class Tracker(Protocol):
    """A place that metrics go to beside metrics.jsonl, which stays the source of truth."""

    def start(self, run: RunFolder) -> None:
        """Opens, or continues, the record of this run; every row is going to be logged, earlier attempts' too."""
        ...

    def log(self, row: Row) -> None:
        """Takes one row of metrics.jsonl."""
        ...

    def finish(self, state: str) -> None:
        """Closes the record; `state` is the run's last."""
        ...


class Guarded:
    """A tracker that never stops or delays the run: it works in a thread of its own, and what fails is told once.

    One that hangs is left alone too. Nothing is lost by that: metrics.jsonl has every row, and a tracker is given all
    of them when the run goes on.
    """

    SECONDS_TO_FINISH = 60.0  # an upload's last part
    MOST_WAITING = 10_000  # rows; of a tracker that takes none for so long

    def __init__(self, tracker: Tracker | None):
        self._tracker = tracker
        self._calls: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="tracker")

    def start(self, run: RunFolder) -> None:
        if self._tracker is not None:
            self._thread.start()
        self._put("start", run)

    def log(self, row: Row) -> None:
        if self._calls.qsize() > self.MOST_WAITING:
            self._leave(f"takes no rows, {self.MOST_WAITING} wait")
        self._put("log", row)

    def finish(self, state: str) -> None:
        """Returns when the tracker has taken all, or has had its time."""
        self._put("finish", state)
        if self._tracker is not None:
            self._thread.join(self.SECONDS_TO_FINISH)
        if self._tracker is not None and self._thread.is_alive():
            self._leave(f"has not come to its end in {self.SECONDS_TO_FINISH:.0f} s")

    def _put(self, verb: str, argument: Any) -> None:
        if self._tracker is not None:
            self._calls.put((verb, argument))

    def _work(self) -> None:
        verb = ""
        while verb != "finish" and (tracker := self._tracker) is not None:
            verb, argument = self._calls.get()
            try:
                getattr(tracker, verb)(argument)
            except Exception as error:
                self._leave(f"failed: {error}")

    def _leave(self, why: str) -> None:
        """Tells once that the run goes on without the tracker."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            message = f"tracker {type(tracker).__name__} {why}; the run goes on without it"
            print(redact(message), file=Patient(sys.stderr))


def numbers(row: Row) -> dict[str, float]:
    """Returns a row's numbers under `split/name`, without the step and the time, which a tracker has anyhow."""
    return {
        f"{row['split']}/{name}": float(value)
        for name, value in row.items()
        if name not in ("step", "time") and isinstance(value, int | float)
    }
