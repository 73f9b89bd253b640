"""The suggestion of a learning-rate range test, from the loss at each rate.

The losses are smoothed, since every step reads other rows. The suggested rate is where the smoothed loss falls fastest
per factor of the rate, at most a tenth of the rate at which it diverges (Smith 2017, arXiv 1506.01186).
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypedDict

RAMP, MEASURED = "ramp.json", "measured.json"  # what the ranks read and write
SMOOTHING = 0.85  # weight of the earlier losses
DIVERGED = 2.0  # smoothed loss over the lowest one, from where on the ramp ends
MARGIN = 10.0  # the suggestion's least distance to divergence, as a factor
LEAST_FALL = 0.01  # of the first loss: a smaller fall is noise
_SKIPPED = 5  # first losses, over which the smoothing settles
_WIDTH = 5  # losses between which a slope is taken
LEAST_STEPS = 4 * _WIDTH


class Ramp(TypedDict):
    """From `low` at the first step to `high` at the last, by the same factor each step."""

    low: float
    high: float


class Measured(TypedDict):
    """Rate and loss of each step; diverged: the ramp ended early for that."""

    rates: list[float]
    losses: list[float | str]  # a text where it is not finite, since JSON has no such numbers
    diverged: bool


@dataclass(frozen=True)
class Suggestion:
    """What a range test found. Rates are learning rates of the first parameter group."""

    rate: float | None  # the suggested one; None: no suggestion is possible
    why: str  # in words
    lowest_loss: float | None  # smoothed
    rate_of_lowest: float | None
    diverged_at: float | None  # None: not within the ramp


class Smoother:
    """A moving average of the losses so far, without the bias of its start (as Adam's).

    Of the last three losses it takes the median, so that a single step that explodes and recovers is not divergence.
    """

    def __init__(self) -> None:
        self.total, self.weight = 0.0, 0.0
        self.recent: deque[float] = deque(maxlen=3)

    def add(self, loss: float) -> float:
        """Takes the next loss; returns the average, or the loss itself where it is not finite."""
        if not math.isfinite(loss):
            return loss
        self.recent.append(loss)
        self.total = SMOOTHING * self.total + (1 - SMOOTHING) * median(self.recent)
        self.weight = SMOOTHING * self.weight + (1 - SMOOTHING)
        return self.total / self.weight


def has_diverged(loss: float, lowest: float) -> bool:
    """Returns whether a smoothed loss is so far above the lowest one that the ramp ends, or not finite."""
    return not math.isfinite(loss) or loss > DIVERGED * lowest + 1e-9


def smoothed(losses: Sequence[float]) -> list[float]:
    smoother = Smoother()
    return [smoother.add(loss) for loss in losses]


def suggest(rates: Sequence[float], losses: Sequence[float], ended_early: bool) -> Suggestion:
    """Returns the suggestion for the rates and losses of a ramp; the last loss may be non-finite.

    ended_early: the ramp ended because the loss diverged.
    """
    finite = [(rate, loss) for rate, loss in zip(rates, losses, strict=True) if math.isfinite(loss)]
    diverged_at = rates[-1] if ended_early else None
    if len(finite) < LEAST_STEPS:
        why = f"the loss diverged after {len(finite)} steps. Try: a lower low="
        return Suggestion(None, why, None, None, diverged_at)
    curve = smoothed([loss for _, loss in finite])
    at = [rate for rate, _ in finite]
    first = curve[_SKIPPED]
    bottom = min(range(_SKIPPED, len(curve)), key=lambda i: curve[i])
    known = (curve[bottom], at[bottom], diverged_at)
    if curve[bottom] > (1 - LEAST_FALL) * first:
        if ended_early:
            return Suggestion(None, "the loss never fell before it diverged. Try: more steps=, or a lower low=", *known)
        return Suggestion(None, "the loss did not fall at any rate. Try: a higher high=, or more steps=", *known)
    slopes = {
        i: (curve[i + _WIDTH] - curve[i]) / math.log(at[i + _WIDTH] / at[i])
        for i in range(_SKIPPED, bottom - _WIDTH + 1)
    }
    if not slopes:
        return Suggestion(None, "the loss fell over too few steps. Try: more steps=", *known)
    steepest = min(slopes, key=lambda i: slopes[i])
    rate = math.sqrt(at[steepest] * at[steepest + _WIDTH])
    why = "the loss falls fastest here"
    if diverged_at is not None and rate > diverged_at / MARGIN:
        rate, why = diverged_at / MARGIN, f"a tenth of {diverged_at:.2g}, at which the loss diverges"
    if diverged_at is None:
        why += f"; it did not diverge up to {at[-1]:.2g}"
    return Suggestion(rounded(rate), why, *known)


def rounded(rate: float) -> float:
    """Returns a rate with two digits."""
    return float(f"{rate:.1e}")
