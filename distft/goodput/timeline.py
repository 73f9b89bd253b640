"""timeline.jsonl: when each attempt of a run was submitted, began, trained and ended; a line by whoever does it.

Trap: the lines come from several machines, whose clocks may differ; what seems to take less than nothing took nothing.
"""

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from distft.run import RunFolder, json_text

Event = Literal["submitted", "begun", "training", "trained", "saved", "ended"]


@dataclass(frozen=True)
class Turn:
    """One line; `time` in seconds since 1970."""

    event: Event
    time: float
    attempt: int
    about: dict[str, Any] = field(default_factory=dict)  # what that event has besides


def note(run: RunFolder, event: Event, attempt: int, **about: Any) -> None:
    """Adds a line; a disk that takes none is no reason to end a run.

    begun: `queued`, when the scheduler took it up. training: `step` that it goes on from, what was `lost` (lost_of).
    trained: `step` that is done. ended: `state`, and `failed`, when what ended it happened.
    """
    line = {"event": event, "time": time.time(), "attempt": attempt} | about
    with suppress(OSError), (run.path / "timeline.jsonl").open("a") as file:
        file.write(json_text(line) + "\n")


def read_timeline(run: RunFolder) -> list[Turn]:
    """Returns the lines in order; one that was cut off by a crash is left out."""
    file, turns = run.path / "timeline.jsonl", []
    for line in file.read_text().splitlines() if file.is_file() else ():
        with suppress(ValueError, KeyError, TypeError):
            about = json.loads(line)
            event, when, attempt = (about.pop(key) for key in ("event", "time", "attempt"))
            if event in get_args(Event):
                turns.append(Turn(event, float(when), attempt, about))
    return turns


def lost_of(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns what is kept of steps that are made again: how many, the time of the last, and what came before the
    first; None when there are none.

    rows: of metrics.jsonl, in order.
    """
    steps = [row for row in rows if row["split"] == "train" and "time" in row]
    if not steps:
        return None
    return {
        "steps": len(steps),
        "step": steps[0]["step"],
        "between": steps[0].get("between", {}),
        "time": steps[-1]["time"],
    }
