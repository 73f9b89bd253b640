"""What a run does with a step whose gradient is not finite, and when a loss or a gradient counts as a spike.

Every process sees the same step skipped, so all decide alike.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from distft.runtime.errors import NonFinite

Policy = Literal["stop", "skip", "rewind"]
_SIGMA = 0.6745  # the median deviation of a normal distribution with deviation 1


@dataclass
class NonFinitePolicy:
    """Says what comes after a step that was not taken: train.on_non_finite, train.max_non_finite."""

    policy: Policy = "skip"
    limit: int = 3
    in_row: int = field(default=0, init=False)
    rewinds: int = field(default=0, init=False)

    def after(self, step: int, is_skipped: bool, where: str) -> Literal["go_on", "rewind"]:
        """Takes the next step; raises NonFinite when the run is to end.

        where: the file that tells of the step.
        """
        if not is_skipped:
            self.in_row = 0
            return "go_on"
        what = f"loss or gradient of step {step} is not finite; no weight was changed. What it read: {where}"
        if self.policy == "stop":
            raise NonFinite(f"{what} (train.on_non_finite=stop)")
        if self.policy == "rewind":
            self.rewinds += 1
            if self.rewinds > self.limit:
                raise NonFinite(f"{what}. The run has gone back {self.limit} times (train.max_non_finite)")
            return "rewind"
        self.in_row += 1
        if self.in_row >= self.limit:
            raise NonFinite(f"{what}. It is number {self.in_row} in a row (train.max_non_finite)")
        return "go_on"


@dataclass
class Spikes:
    """Tells a value far above its recent ones, by the median and the median deviation of these.

    Both do not follow single outliers, so a spike does not hide the next one.
    """

    threshold: float = 8.0  # deviations; a normal one comes by once in 1e15 values
    least: int = 32  # values before the first can be told
    floor: float = 0.01  # of the median: the deviation of a curve that hardly moves is not taken for less
    by_ratio: bool = False  # deviations of the logarithm, of a value that is multiplied rather than added to
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=128))

    def see(self, value: float) -> float | None:
        """Takes the next value; returns how many deviations a spike is above the median, else None."""
        if not math.isfinite(value):
            return None
        value = math.log(max(value, 1e-30)) if self.by_ratio else value
        score = self._score(value) if len(self.recent) >= self.least else 0.0
        self.recent.append(value)
        return score if score > self.threshold else None

    @property
    def usual(self) -> float:
        """Returns the median of the values before the last."""
        middle = median(list(self.recent)[:-1])
        return math.exp(middle) if self.by_ratio else middle

    def _score(self, value: float) -> float:
        middle = median(self.recent)
        deviation = median(abs(each - middle) for each in self.recent) / _SIGMA
        return (value - middle) / max(deviation, self.floor * (1.0 if self.by_ratio else abs(middle)), 1e-12)


@dataclass
class Warnings:
    """Puts a step's numbers into words where they need a look."""

    loss: Spikes = field(default_factory=Spikes)
    grad_norm: Spikes = field(default_factory=lambda: Spikes(floor=0.1, by_ratio=True))

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes the steps that an earlier start has made, which tell nothing again: a restart forgets nothing usual."""
        for row in deque(rows, self.loss.recent.maxlen):
            if not row.get("skipped", False):
                self.loss.see(row["loss"])
                self.grad_norm.see(row["grad_norm"])

    def of(self, step: int, loss: float, grad_norm: float, is_skipped: bool) -> list[str]:
        """Returns what is to be told about the step, mostly nothing."""
        if is_skipped:
            return [f"step {step} was not taken: loss {loss:.4g}, gradient norm {grad_norm:.4g}"]
        told = []
        for what, spikes, value in (("loss", self.loss, loss), ("gradient norm", self.grad_norm, grad_norm)):
            if (score := spikes.see(value)) is not None:
                usual = spikes.usual
                told.append(f"{what} of step {step} is {value:.4g}, {score:.0f} deviations above {usual:.4g}")
        return told
