"""Each second of a run gets one name: what was trained and kept, and where the rest went.

The turns of timeline.jsonl cut a run into stretches, the rows of metrics.jsonl those of training into steps. A pointer
moves over all of it once, so the parts add up to the whole.

Trap: the lines come from several machines, whose clocks may differ; what seems to take less than nothing took nothing.
"""

import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, get_args

from distft.config.freeze import read_config
from distft.run import RunFolder, json_text, write_json

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


Row = dict[str, Any]
PARTS = (
    "productive",  # steps that count, without their waits for data and saves
    "start",  # of the processes up to the first step, and their end
    "data",  # waited for, in steps
    "checkpoint",  # waited for, in steps and between them
    "evaluation",
    "border",  # rows written, replicas compared
    "lost",  # work behind the last checkpoint, made again
    "detection",  # from a failure to its noticing
    "queue",  # submitted, and not begun
    "idle",  # ended, and not submitted again yet
)
_AFTER = {"submitted": "queue", "begun": "start", "trained": "checkpoint", "saved": "start", "ended": "start"}


@dataclass(frozen=True)
class Goodput:
    """Where the time went, from the first launch to the end, or up to now."""

    seconds: dict[str, float]  # by part
    lost_steps: int  # whole steps that were made again, or left out
    failures: int
    saves: int
    step_seconds: float | None  # from step to step, of those that count

    @property
    def wall_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def share(self) -> float:
        """Productive seconds of all in which the run was wanted; 0 without any."""
        wanted = self.wall_seconds - self.seconds["idle"]
        return self.seconds["productive"] / wanted if wanted else 0.0

    @property
    def checkpoint_seconds(self) -> float | None:
        """Returns what training waits for a save."""
        return self.seconds["checkpoint"] / self.saves if self.saves else None

    @property
    def seconds_between_failures(self) -> float | None:
        there = self.wall_seconds - self.seconds["idle"] - self.seconds["queue"]
        return there / self.failures if self.failures else None

    @property
    def best_interval_seconds(self) -> float | None:
        """Returns how often to save, sqrt(2 * cost of a save * time between failures) (Young 1974, Daly 2006)."""
        cost, between = self.checkpoint_seconds, self.seconds_between_failures
        return math.sqrt(2 * cost * between) if cost is not None and between is not None else None

    def as_json(self) -> dict[str, Any]:
        best, step = self.best_interval_seconds, self.step_seconds
        return {
            "goodput": self.share,
            "wall_seconds": self.wall_seconds,
            "seconds": self.seconds,
            "lost_steps": self.lost_steps,
            "failures": self.failures,
            "saves": self.saves,
            "checkpoint_seconds": self.checkpoint_seconds,
            "seconds_between_failures": self.seconds_between_failures,
            "best_interval_seconds": best,
            "best_every_steps": max(1, round(best / step)) if best is not None and step else None,
            "time": time.time(),
        }


def write_goodput(run: RunFolder) -> None:
    """Writes goodput.json of a run that has trained; a full disk is not the run's trouble."""
    if found := goodput_of(run):
        with suppress(OSError):
            write_json(run.goodput, found)


def goodput_of(run: RunFolder) -> dict[str, Any] | None:
    """Returns what goodput.json says at the moment; None when that cannot be told, or a file is damaged."""
    try:
        found = account(run)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found.as_json() if found else None


def account(run: RunFolder) -> Goodput | None:
    """Returns where the run's time went; None when it has not trained, or was made by a version that noted nothing."""
    turns = with_requeues(read_timeline(run))
    if not any(turn.event == "training" for turn in turns):
        return None
    pointer = _Pointer(turns, [row for row in run.read_metrics() if "time" in row], _saved_step(run))
    pointer.go()
    every = read_config(run).checkpoint.every_steps
    steps = [row["step"] for row in pointer.kept]
    saves = {row["step"] - 1 for row in pointer.kept if row.get("saved")}  # which older versions did not tell
    saves = (saves or {step for step in steps if every and step % every == 0}) | pointer.ends
    return Goodput(
        seconds={part: pointer.parts[part] for part in PARTS},
        lost_steps=pointer.lost_steps,
        failures=_failures(turns),
        saves=len(saves),
        step_seconds=pointer.step_seconds / len(steps) if steps else None,
    )


def with_requeues(turns: Sequence[Turn]) -> list[Turn]:
    """Puts a turn where a scheduler has queued a job again by itself; of two that tell an end the first counts."""
    found: list[Turn] = []
    for turn in turns:
        last, queued = found[-1] if found else None, turn.about.get("queued")
        if last and turn.event == last.event == "ended":
            continue
        if last and queued and last.event != "submitted" and last.time < queued < turn.time:
            found.append(Turn("submitted", queued, turn.attempt, {"by_scheduler": last.event != "ended"}))
        found.append(turn)
    return found


def _failures(turns: Sequence[Turn]) -> int:
    """Returns how many attempts failed, or ended without anybody to tell."""
    told = sum(turn.about.get("state") == "failed" for turn in turns)
    under_way, again = ("begun", "training", "trained"), ("submitted", "begun")
    return told + sum(turn.event in under_way and after.event in again for turn, after in pairwise(turns))


class _Pointer:
    """Goes over a run's time, and gives it to the parts."""

    def __init__(self, turns: Sequence[Turn], rows: Sequence[Row], saved_step: int) -> None:
        self.turns, self.rows, self.saved_step = turns, rows, saved_step
        self.at, self.parts = turns[0].time, defaultdict[str, float](float)
        self.kept: list[Row] = []  # steps that count
        self.ends: set[int] = set()  # steps with which training came to an end
        self.lost_steps, self.step_seconds = 0, 0.0

    def go(self) -> None:
        """Goes to the last turn, and of a run that trains to its last row."""
        for i, turn in enumerate(self.turns):
            after = self.turns[i + 1] if i + 1 < len(self.turns) else None
            if turn.event == "training":
                again = next((each for each in self.turns[i + 1 :] if each.event == "training"), None)
                self._train(turn, after, again)
            elif after is not None:
                self._pass(turn, after)

    def _to(self, when: float, part: str) -> None:
        """Gives the time up to `when`, if that is ahead, to a part."""
        self.parts[part] += max(0.0, when - self.at)
        self.at = max(self.at, when)

    def _pass(self, turn: Turn, after: Turn) -> None:
        """Goes to the next turn from one outside of training."""
        if after.event != "submitted" or after.about.get("by_scheduler"):
            self._to(_stopped(after), _AFTER[turn.event])
        self._notice(after)

    def _notice(self, after: Turn) -> None:
        """Goes to the next turn, when what was before it has stopped already."""
        is_users = after.event == "submitted" and not after.about.get("by_scheduler")
        self._to(after.time, "idle" if is_users else "detection")

    def _train(self, turn: Turn, after: Turn | None, again: Turn | None) -> None:
        """Goes over a stretch of training; again: the next one, which has made anew what no checkpoint held."""
        rows = [row for row in self.rows if turn.time <= row["time"] < (again.time if again else math.inf)]
        last_sign, lost = max([row["time"] for row in rows], default=self.at), again and again.about.get("lost")
        if again is None and after is not None and after.event != "trained":
            lost = lost_of([row for row in rows if row["step"] > self.saved_step])
            rows = [row for row in rows if row["step"] <= self.saved_step]
        self.lost_steps += lost["steps"] if lost else 0
        done, began = turn.about["step"], self.at
        for row in rows:
            if row["split"] == "train":
                self._step(row)
                done = row["step"]
            elif row["split"] == "eval" and row["step"] == turn.about["step"]:
                self._to(row["time"], "evaluation")
        lost_next = lost if lost and lost["step"] == done + 1 else None
        if rows and rows[-1]["split"] == "eval" and not lost_next:
            self._to(rows[-1]["time"], "evaluation")  # what is between other steps the next of them tells
        self.step_seconds += self.at - began
        if after is None:
            return
        if after.event == "trained" and after.about["step"] == done:
            self._to(after.time, "checkpoint")
            self.ends.add(done)
            return
        if lost_next:
            self._between(lost_next["between"], math.inf)
        last_sign = max(last_sign, lost["time"]) if lost else last_sign
        self._to(last_sign if after.event in ("submitted", "begun") else _stopped(after), "lost")
        self._notice(after)

    def _step(self, row: Row) -> None:
        self._between(row.get("between", {}), row["time"] - row["seconds"])
        self._to(row["time"] - row["seconds"], "border")
        for part in ("data", "checkpoint"):
            self._to(min(self.at + row.get("phases", {}).get(part, 0.0), row["time"]), part)
        is_skipped = row.get("skipped", False)
        self._to(row["time"], "lost" if is_skipped else "productive")
        self.lost_steps += is_skipped
        self.kept.append(row)

    def _between(self, seconds: Mapping[str, float], until: float) -> None:
        """Goes over what was done between two steps."""
        for part in ("evaluation", "checkpoint"):
            self._to(min(self.at + seconds.get(part, 0.0), until), part)


def _stopped(turn: Turn) -> float:
    """Returns when what went on before a turn stopped: at a failure before that was noticed."""
    return min(turn.about.get("failed") or turn.time, turn.time)


def _saved_step(run: RunFolder) -> int:
    """Returns the step of the newest checkpoint, 0 without one."""
    try:
        return int((run.checkpoints / "latest").readlink().name.removeprefix("step-"))
    except (OSError, ValueError):
        return 0
