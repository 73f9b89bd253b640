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
_NEAR, _FAR = 16, 128  # values
_LEAST = 16  # distances before the first spike can be told


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
    """Tells a value far above those before it: its distance from the median of the last few, over what is usual.

    Medians do not follow single outliers, so a spike does not hide the next one. The distance is taken from few values,
    since a loss that falls leaves a longer window behind, and with it a spread in which a spike is lost.
    """

    threshold: float = 8.0  # deviations; a normal one comes by once in 1e15 values
    floor: float = 0.01  # of the median: the deviation of a curve that hardly moves is not taken for less
    by_ratio: bool = False  # deviations of the logarithm, of a value that is multiplied rather than added to
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_NEAR))
    distances: deque[float] = field(default_factory=lambda: deque(maxlen=_FAR))
    _middle: float = 0.0

    def see(self, value: float) -> float | None:
        """Takes the next value; returns how many deviations a spike is above the median, else None."""
        if not math.isfinite(value):
            return None
        value = math.log(max(value, 1e-30)) if self.by_ratio else value
        score = 0.0
        if len(self.recent) == self.recent.maxlen:
            self._middle = median(self.recent)
            distance = value - self._middle
            score = distance / self._deviation() if len(self.distances) >= _LEAST else 0.0
            self.distances.append(abs(distance))
        self.recent.append(value)
        return score if score > self.threshold else None

    @property
    def usual(self) -> float:
        """Returns the median of the values before the last."""
        return math.exp(self._middle) if self.by_ratio else self._middle

    def _deviation(self) -> float:
        least = self.floor * (1.0 if self.by_ratio else abs(self._middle))
        return max(median(self.distances) / _SIGMA, least, 1e-12)


@dataclass
class Warnings:
    """Puts a step's numbers into words where they need a look."""

    loss: Spikes = field(default_factory=Spikes)
    grad_norm: Spikes = field(default_factory=lambda: Spikes(floor=0.1, by_ratio=True))

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes the steps that an earlier start has made, which tell nothing again: a restart forgets nothing usual."""
        for row in deque(rows, _NEAR + _FAR):
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
