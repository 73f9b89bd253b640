"""The interface of trackers, their list from the config, and a guard around each.

The launching process feeds them, so ranks open no sockets.
"""

import queue
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from distft.config import ConfigError
from distft.config.parts import Trackers
from distft.config.targets import build
from distft.run import MetricsRow as Row
from distft.run import RunFolder, read_json
from distft.runtime.environment import redact
from distft.runtime.logs import Patient

Cells = Mapping[str, str | float | None]  # a row of a table, by column


@dataclass(frozen=True)
class Results:
    """The results of a finished run: answers to the same held-out prompts before and after training, and files."""

    samples: Sequence[Cells] = ()  # prompt, expected, before, after, and shares of verbatim copies
    files: Sequence[Path] = ()  # report.html, metrics.json of evaluations


class Tracker(Protocol):
    """A destination of metrics in addition to metrics.jsonl, which remains the source of truth.

    A tracker may also have a method `results(results: Results)`, called before `finish` when the run has finished.
    """

    def start(self, run: RunFolder) -> None:
        """Opens or continues the record of this run; all rows will be logged, those of earlier attempts too."""
        ...

    def log(self, row: Row) -> None:
        """Logs one row of metrics.jsonl."""
        ...

    def finish(self, state: str) -> None:
        """Closes the record; state: the final state of the run."""
        ...


def make_trackers(section: Trackers) -> list[Tracker]:
    """Returns the trackers that a config chooses; ConfigError when one refuses its settings."""
    chosen, errors = [], []
    for name, part in section.entries():
        settings = part.plain()
        if (target := settings.pop("_target_", None)) is None:
            continue
        try:
            chosen.append(build(target, settings))
        except ValueError as error:
            errors.append(f"tracker.{name}: {error}")
    if errors:
        raise ConfigError(errors)
    return chosen


class Guarded:
    """Runs a tracker in its own thread, so that it never stops or delays the run; a failure is reported once.

    A tracker that fails or hangs is dropped. No rows are lost: metrics.jsonl has them all, and a resumed run logs them
    again.
    """

    SECONDS_TO_FINISH = 60.0  # for the last part of an upload
    MAX_QUEUED = 10_000  # rows, after which the tracker is considered hung

    def __init__(self, tracker: Tracker):
        self._tracker: Tracker | None = tracker  # None: dropped
        self._calls: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="tracker")

    def start(self, run: RunFolder) -> None:
        self._thread.start()
        self._put("start", run)

    def log(self, row: Row) -> None:
        if self._calls.qsize() > self.MAX_QUEUED:
            self._drop(f"takes no rows, {self.MAX_QUEUED} are queued")
        self._put("log", row)

    def results(self, results: Results) -> None:
        self._put("results", results)

    def finish(self, state: str) -> None:
        """Returns when the tracker has taken all rows, or after a timeout."""
        self._put("finish", state)
        if self._tracker is not None:
            self._thread.join(self.SECONDS_TO_FINISH)
        if self._tracker is not None and self._thread.is_alive():
            self._drop(f"has not finished within {self.SECONDS_TO_FINISH:.0f} s")

    def _put(self, verb: str, argument: Any) -> None:
        if self._tracker is not None:
            self._calls.put((verb, argument))

    def _work(self) -> None:
        verb = ""
        while verb != "finish" and (tracker := self._tracker) is not None:
            verb, argument = self._calls.get()
            if verb == "results" and not hasattr(tracker, verb):
                continue
            try:
                getattr(tracker, verb)(argument)
            except Exception as error:
                self._drop(f"failed: {error}")

    def _drop(self, why: str) -> None:
        """Reports once that the run continues without the tracker."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            message = f"tracker {type(tracker).__name__} {why}; the run continues without it"
            print(redact(message), file=Patient(sys.stderr))


def numbers(row: Row) -> dict[str, float]:
    """Returns the numbers of a row under `split/name`, without step and time, which trackers record themselves."""
    return {
        f"{row['split']}/{name}": float(value)
        for name, value in row.items()
        if name not in ("step", "time") and isinstance(value, int | float)
    }


def evaluation_rows(results: Results) -> list[Cells]:
    """Returns a row for each metric of each metrics.json, and for each of its benchmarks."""
    rows: list[Cells] = []
    for file in (each for each in results.files if each.name == "metrics.json"):
        found = read_json(file)
        parts = {"": found.get("metrics", {})}
        parts |= {f"{name}/": each["metrics"] for name, each in (found.get("benchmarks") or {}).items()}
        for task, metrics in parts.items():
            rows += [
                {"evaluation": file.parent.name, "metric": f"{task}{name}"}
                | {key: value.get(key) for key in ("value", "stderr", "n")}
                for name, value in metrics.items()
            ]
    return rows


def tables(results: Results) -> dict[str, Sequence[Cells]]:
    """Returns the tables of a finished run that have rows, by name."""
    found = {"samples": results.samples, "evaluation": evaluation_rows(results)}
    return {name: rows for name, rows in found.items() if rows}


def markdown(rows: Sequence[Cells]) -> str:
    """Returns a Markdown table; a line break or a bar within a text does not end its cell."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names)]
    lines += [[_cell(row[name]) for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: str | float | None) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
