"""timeline.jsonl: when each attempt of a run was submitted, began, trained and ended; a line by whoever does it.

Trap: the lines come from several machines, whose clocks may differ; what seems to take less than nothing took nothing.
"""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
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

    submitted: `changed`, a line for each difference to the attempt before. begun: `queued`, when the scheduler took it
    up. training: `step` that it goes on from, `world`, what was `lost` (lost_of).
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


@dataclass(frozen=True)
class Attempt:
    """One start of a run's processes; what was not noted is None."""

    number: int
    time: float  # of its submission, else of its beginning
    step: int | None = None  # that it goes on from
    done: int | None = None  # last step of its training; None while it trains, and of one that was cut off
    world: int | None = None
    state: str | None = None  # in which it ended
    changed: tuple[str, ...] = ()  # lines such as `strategy: zero2 -> fsdp`


def attempts(turns: Sequence[Turn]) -> list[Attempt]:
    """Returns all attempts of a run, the first one first."""
    found: dict[int, Attempt] = {}
    for turn in turns:
        attempt = found.get(turn.attempt, Attempt(turn.attempt, turn.time))
        about = turn.about
        if turn.event == "submitted":
            attempt = replace(attempt, changed=tuple(map(str, about.get("changed", ()))))
        elif turn.event == "training":
            attempt = replace(attempt, step=about.get("step"), world=about.get("world"))
        elif turn.event == "trained":
            attempt = replace(attempt, done=about.get("step"))
        elif turn.event == "ended" and attempt.state is None:
            attempt = replace(attempt, state=about.get("state"))
        found[turn.attempt] = attempt
    return [found[number] for number in sorted(found)]


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
