"""What every tracker offers. A tracker is fed by the launching process, so that the ranks open no sockets."""

import sys
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
    """A tracker whose failure never stops the run: it is told once, and the tracker is left alone from then on."""

    def __init__(self, tracker: Tracker | None):
        self._tracker = tracker

    def start(self, run: RunFolder) -> None:
        self._call("start", run)

    def log(self, row: Row) -> None:
        self._call("log", row)

    def finish(self, state: str) -> None:
        self._call("finish", state)

    def _call(self, verb: str, argument: Any) -> None:
        if self._tracker is None:
            return
        try:
            getattr(self._tracker, verb)(argument)
        except Exception as error:
            name = type(self._tracker).__name__
            self._tracker = None
            message = f"tracker {name} failed, the run goes on without it: {error}"
            print(redact(message), file=Patient(sys.stderr))


def numbers(row: Row) -> dict[str, float]:
    """Returns a row's numbers under `split/name`, the step left out."""
    return {
        f"{row['split']}/{name}": float(value)
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float)
    }
