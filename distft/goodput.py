"""Goodput: attributes each second of a run to one part, such as productive steps, checkpoints, lost steps, queue.

The entries of timeline.jsonl divide a run into phases, the rows of metrics.jsonl divide training into steps. One pass
over both attributes the time, so the parts add up to the wall time.

Trap: the lines come from several machines, whose clocks may differ, so negative durations are taken as zero.
"""

import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, TypedDict, get_args

from distft.config.freeze import read_config
from distft.run import MetricsRow, RunFolder, json_text, write_json

Event = Literal["submitted", "begun", "training", "trained", "saved", "ended"]


@dataclass(frozen=True)
class Entry:
    """One line of timeline.jsonl; `time` in seconds since 1970."""

    event: Event
    time: float
    attempt: int
    about: Mapping[str, Any] = field(default_factory=dict)  # further keys of the event


def note(run: RunFolder, event: Event, attempt: int, **about: Any) -> None:
    """Appends a line to timeline.jsonl; a write error is ignored, so that it does not end the run.

    Keys by event. submitted: `changed`, a line for each difference to the previous attempt. begun: `queued`, the time
    at which the scheduler queued it. training: `step` to resume from, `world`, `lost` (lost_of). trained: the last
    `step`. ended: `state`, and `failed`, the time of the failure.
    """
    line = {"event": event, "time": time.time(), "attempt": attempt} | about
    with suppress(OSError), (run.path / "timeline.jsonl").open("a") as file:
        file.write(json_text(line) + "\n")


def read_timeline(run: RunFolder) -> list[Entry]:
    """Returns the entries in order, without a line that a crash truncated."""
    file, entries = run.path / "timeline.jsonl", []
    for line in file.read_text().splitlines() if file.is_file() else ():
        with suppress(ValueError, KeyError, TypeError):
            about = json.loads(line)
            event, when, attempt = (about.pop(key) for key in ("event", "time", "attempt"))
            if event in get_args(Event):
                entries.append(Entry(event, float(when), attempt, about))
    return entries


@dataclass(frozen=True)
class Attempt:
    """One start of a run's processes; None for what was not recorded."""

    number: int
    time: float  # of its submission, else of its start
    step: int | None = None  # that it resumed from
    done: int | None = None  # last step; None while it trains and after a crash
    world: int | None = None
    state: str | None = None  # at its end
    changed: tuple[str, ...] = ()  # lines such as `strategy: zero2 -> fsdp`


def attempts(entries: Sequence[Entry]) -> list[Attempt]:
    """Returns all attempts of a run in order."""
    found: dict[int, Attempt] = {}
    for entry in entries:
        attempt = found.get(entry.attempt, Attempt(entry.attempt, entry.time))
        about = entry.about
        if entry.event == "submitted":
            attempt = replace(attempt, changed=tuple(map(str, about.get("changed", ()))))
        elif entry.event == "training":
            attempt = replace(attempt, step=about.get("step"), world=about.get("world"))
        elif entry.event == "trained":
            attempt = replace(attempt, done=about.get("step"))
        elif entry.event == "ended" and attempt.state is None:
            attempt = replace(attempt, state=about.get("state"))
        found[entry.attempt] = attempt
    return [found[number] for number in sorted(found)]


class Lost(TypedDict):
    """Steps that are repeated. steps: their number; step: the first."""

    steps: int
    step: int
    between: Mapping[str, float]  # seconds by part before the first
    time: float  # of the last


def lost_of(rows: Sequence[MetricsRow]) -> Lost | None:
    """Returns the record of steps that will be repeated; None when there are none.

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


PARTS = (
    "productive",  # steps whose work was kept, without their waits for data and saves
    "start",  # starting processes up to the first step, and ending them
    "data",  # steps waiting for data
    "checkpoint",  # training waiting for saves
    "evaluation",
    "border",  # between steps: writing metrics, comparing replicas
    "lost",  # work after the last checkpoint, repeated
    "detection",  # from a failure to its detection
    "queue",  # submitted, not started
    "idle",  # ended, not submitted again
)
_EVALUATIONS = ("eval", "train_eval")  # splits of metrics.jsonl
_WITHOUT_DEVICES = ("queue", "idle")
_AFTER = {"submitted": "queue", "begun": "start", "trained": "checkpoint", "saved": "start", "ended": "start"}


class GoodputFile(TypedDict):
    """goodput.json; None for what is not known."""

    goodput: float  # productive share of the wall time without idle time
    wall_seconds: float
    seconds: Mapping[str, float]  # by part
    lost_steps: int
    failures: int
    saves: int
    checkpoint_seconds: float | None
    seconds_between_failures: float | None
    best_interval_seconds: float | None
    best_every_steps: int | None
    device_hours: float  # processes times hours, without time in queues and between launches
    time: float


@dataclass(frozen=True)
class Goodput:
    """Wall time by part, from the first launch to the end, or up to now."""

    seconds: dict[str, float]  # by part
    lost_steps: int  # steps that were repeated or skipped
    failures: int
    saves: int
    step_seconds: float | None  # from step to step, of steps whose work was kept
    device_seconds: float = 0.0  # processes times the seconds in which they had their devices

    @property
    def wall_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def share(self) -> float:
        """Productive seconds as a share of the wall time without idle time; 0 for a run without time."""
        requested = self.wall_seconds - self.seconds["idle"]
        return self.seconds["productive"] / requested if requested else 0.0

    @property
    def checkpoint_seconds(self) -> float | None:
        """The seconds for which training waits per save."""
        return self.seconds["checkpoint"] / self.saves if self.saves else None

    @property
    def seconds_between_failures(self) -> float | None:
        running = self.wall_seconds - self.seconds["idle"] - self.seconds["queue"]
        return running / self.failures if self.failures else None

    @property
    def best_interval_seconds(self) -> float | None:
        """The optimal save interval: sqrt(2 * cost of a save * time between failures) (Young 1974, Daly 2006)."""
        cost, between = self.checkpoint_seconds, self.seconds_between_failures
        return math.sqrt(2 * cost * between) if cost is not None and between is not None else None

    def as_json(self) -> GoodputFile:
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
            "device_hours": self.device_seconds / 3600,
            "time": time.time(),
        }


def write_goodput(run: RunFolder) -> None:
    """Writes goodput.json of a run that has trained; a write error is ignored."""
    if found := goodput_of(run):
        with suppress(OSError):
            write_json(run.goodput, found)


def goodput_of(run: RunFolder) -> GoodputFile | None:
    """Returns the content of an up-to-date goodput.json; None when it cannot be computed, or a file is damaged."""
    try:
        found = account(run)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found.as_json() if found else None


def account(run: RunFolder) -> Goodput | None:
    """Returns the goodput of a run; None when it has not trained, or an older version recorded no timeline."""
    entries = with_requeues(read_timeline(run))
    if not any(entry.event == "training" for entry in entries):
        return None
    walk = _Walk(entries, [row for row in run.read_metrics() if "time" in row], _saved_step(run))
    walk.go()
    every = read_config(run).checkpoint.every_steps
    steps = [row["step"] for row in walk.kept]
    saves = {row["step"] - 1 for row in walk.kept if row.get("saved")}  # missing in older versions
    saves = (saves or {step for step in steps if every and step % every == 0}) | walk.ends
    return Goodput(
        seconds={part: walk.parts[part] for part in PARTS},
        lost_steps=walk.lost_steps,
        failures=_failures(entries),
        saves=len(saves),
        step_seconds=walk.step_seconds / len(steps) if steps else None,
        device_seconds=walk.device_seconds,
    )


def with_requeues(entries: Sequence[Entry]) -> list[Entry]:
    """Inserts an entry where the scheduler requeued a job; of two `ended` in a row, keeps the first."""
    found: list[Entry] = []
    for entry in entries:
        last, queued = found[-1] if found else None, entry.about.get("queued")
        if last and entry.event == last.event == "ended":
            continue
        if last and queued and last.event != "submitted" and last.time < queued < entry.time:
            found.append(Entry("submitted", queued, entry.attempt, {"by_scheduler": last.event != "ended"}))
        found.append(entry)
    return found


def _failures(entries: Sequence[Entry]) -> int:
    """Returns how many attempts failed, or ended without an `ended` entry."""
    reported = sum(entry.about.get("state") == "failed" for entry in entries)
    active, again = ("begun", "training", "trained"), ("submitted", "begun")
    return reported + sum(entry.event in active and after.event in again for entry, after in pairwise(entries))


class _Walk:
    """Walks through the timeline once, and attributes the time to the parts."""

    def __init__(self, entries: Sequence[Entry], rows: Sequence[MetricsRow], saved_step: int) -> None:
        self.entries, self.rows, self.saved_step = entries, rows, saved_step
        self.at, self.parts = entries[0].time, defaultdict[str, float](float)
        self.kept: list[MetricsRow] = []  # steps whose work was kept
        self.ends: set[int] = set()  # last steps of completed training
        self.lost_steps, self.step_seconds = 0, 0.0
        self.world, self.device_seconds = 1, 0.0  # processes of the attempt at hand

    def go(self) -> None:
        """Walks to the last entry; of a run that is training, to its last row."""
        for i, entry in enumerate(self.entries):
            after = self.entries[i + 1] if i + 1 < len(self.entries) else None
            self.world = self._world(i)
            if entry.event == "training":
                again = next((each for each in self.entries[i + 1 :] if each.event == "training"), None)
                self._train(entry, after, again)
            elif after is not None:
                self._outside_training(entry, after)

    def _world(self, number: int) -> int:
        """Returns the processes of the attempt of an entry; of one that never trained those of the next that did."""
        attempt = self.entries[number].attempt
        own = [entry for entry in self.entries if entry.event == "training" and entry.attempt == attempt]
        later = [entry for entry in self.entries[number:] if entry.event == "training"]
        found = [entry.about["world"] for entry in (*own[-1:], *later[:1]) if entry.about.get("world")]
        return int(found[0]) if found else self.world

    def _until(self, when: float, part: str) -> None:
        """Attributes the time up to `when` to a part; nothing when `when` is in the past."""
        seconds = max(0.0, when - self.at)
        self.parts[part] += seconds
        self.device_seconds += self.world * seconds if part not in _WITHOUT_DEVICES else 0.0
        self.at = max(self.at, when)

    def _outside_training(self, entry: Entry, after: Entry) -> None:
        """Attributes the time from an entry outside of training to the next one."""
        if after.event != "submitted" or after.about.get("by_scheduler"):
            self._until(_stopped(after), _AFTER[entry.event])
        self._after_stop(after)

    def _after_stop(self, after: Entry) -> None:
        """Attributes the time from a stop to the next entry: idle before a new launch, else detection."""
        is_by_user = after.event == "submitted" and not after.about.get("by_scheduler")
        self._until(after.time, "idle" if is_by_user else "detection")

    def _train(self, entry: Entry, after: Entry | None, again: Entry | None) -> None:
        """Attributes one phase of training; again: the next one, which repeated the steps after the last checkpoint."""
        rows = [row for row in self.rows if entry.time <= row["time"] < (again.time if again else math.inf)]
        last_sign, lost = max([row["time"] for row in rows], default=self.at), again and again.about.get("lost")
        if again is None and after is not None and after.event != "trained":
            lost = lost_of([row for row in rows if row["step"] > self.saved_step])
            rows = [row for row in rows if row["step"] <= self.saved_step]
        self.lost_steps += lost["steps"] if lost else 0
        done, began = entry.about["step"], self.at
        for row in rows:
            if row["split"] == "train":
                self._step(row)
                done = row["step"]
            elif row["split"] in _EVALUATIONS and row["step"] == entry.about["step"]:
                self._until(row["time"], "evaluation")
        lost_next = lost if lost and lost["step"] == done + 1 else None
        if rows and rows[-1]["split"] in _EVALUATIONS and not lost_next:
            self._until(rows[-1]["time"], "evaluation")  # between other steps, the next row has the seconds
        self.step_seconds += self.at - began
        if after is None:
            return
        if after.event == "trained" and after.about["step"] == done:
            self._until(after.time, "checkpoint")
            self.ends.add(done)
            return
        if lost_next:
            self._between(lost_next["between"], math.inf)
        last_sign = max(last_sign, lost["time"]) if lost else last_sign
        self._until(last_sign if after.event in ("submitted", "begun") else _stopped(after), "lost")
        self._after_stop(after)

    def _step(self, row: MetricsRow) -> None:
        self._between(row.get("between", {}), row["time"] - row["seconds"])
        self._until(row["time"] - row["seconds"], "border")
        for part in ("data", "checkpoint"):
            self._until(min(self.at + row.get("phases", {}).get(part, 0.0), row["time"]), part)
        is_skipped = row.get("skipped", False)
        self._until(row["time"], "lost" if is_skipped else "productive")
        self.lost_steps += is_skipped
        self.kept.append(row)

    def _between(self, seconds: Mapping[str, float], until: float) -> None:
        """Attributes evaluation and saves between two steps."""
        for part in ("evaluation", "checkpoint"):
            self._until(min(self.at + seconds.get(part, 0.0), until), part)


def _stopped(entry: Entry) -> float:
    """Returns when the activity before an entry stopped: at its failure, which is detected later."""
    return min(entry.about.get("failed") or entry.time, entry.time)


def _saved_step(run: RunFolder) -> int:
    """Returns the step of the newest checkpoint, 0 without one."""
    try:
        return int((run.checkpoints / "latest").readlink().name.removeprefix("step-"))
    except (OSError, ValueError):
        return 0
