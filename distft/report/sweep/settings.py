"""Ranks a sweep's settings, and says how sure the order is.

A setting is the swept values without the seed; runs that differ in the seed alone are its repetitions.
Trap: two runs of one setting and one seed are one observation, so `n` counts seeds.
"""

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Any

from distft.report.sweep.jobs import Job, Sweep

_TINY = 1e-300


@cache
def quantile(probability: float, freedom: float) -> float:
    """Returns the t below which `probability` of Student's distribution lies; freedom > 0 need not be whole."""
    if probability < 0.5:
        return -quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while below(high, freedom) < probability:
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):  # until no float lies between
        low, high = (middle, high) if below(middle, freedom) < probability else (low, middle)
    return high


def below(t: float, freedom: float) -> float:
    """Returns the share of Student's distribution below t >= 0."""
    return 1 - incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5) / 2


def incomplete_beta(x: float, a: float, b: float) -> float:
    """Returns the regularised incomplete beta function I_x(a, b) (DLMF 8.17.22; mirrored where it converges faster)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    return front / _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """Returns 1 + d1/(1 + d2/(1 + ...)) by Lentz's method."""
    value, above, under = 1.0, 1.0, 0.0
    for number in range(1, 10_000):
        m = number // 2
        top = m * (b - m) * x if number % 2 == 0 else -(a + m) * (a + b + m) * x
        term = top / ((a + number - 1) * (a + number))
        under = 1 / (1 + term * under or _TINY)
        above = 1 + term / above or _TINY
        value *= above * under
        if abs(above * under - 1) < 1e-15:
            return value
    raise AssertionError(f"the fraction of I_{x}({a}, {b}) does not converge")


CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Setting:
    """The runs that differ in their seed alone."""

    values: dict[str, Any]
    jobs: list[Job]  # in whatever state

    @property
    def losses(self) -> dict[int | None, float]:
        """The objective of each seed, of the runs that count."""
        seeds: dict[int | None, list[float]] = defaultdict(list)
        for job in self.jobs:
            if job.counts:
                seeds[job.seed].append(job.loss)
        return {seed: fmean(losses) for seed, losses in seeds.items()}

    @property
    def n(self) -> int:
        return len(self.losses)

    @property
    def mean(self) -> float:
        return fmean(self.losses.values())

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds, None of one seed."""
        return stdev(self.losses.values()) if self.n > 1 else None

    @property
    def interval(self) -> Interval | None:
        return of_mean(list(self.losses.values()))

    @property
    def best(self) -> Job:
        """The run with the lowest objective."""
        return min((job for job in self.jobs if job.counts), key=lambda job: job.loss)

    @property
    def process_hours(self) -> float:
        return sum(job.process_hours for job in self.jobs)

    @property
    def tokens(self) -> int:
        return sum(job.tokens for job in self.jobs)


@dataclass(frozen=True)
class Difference:
    """How much higher the loss of one setting is than that of the best."""

    mean: float
    interval: Interval | None  # None: too few seeds to tell
    how: str

    @property
    def is_told_apart(self) -> bool:
        """True when chance of the seed does not explain the order."""
        return self.interval is not None and self.interval.low > 0


def settings_of(sweep: Sweep) -> list[Setting]:
    """Returns every setting in the order in which they were launched."""
    groups: dict[str, tuple[dict[str, Any], list[Job]]] = {}
    for job in sweep.jobs:
        values = {key: job.values.get(key) for key in sweep.swept if key != "seed"}
        groups.setdefault(json.dumps(values, sort_keys=True), (values, []))[1].append(job)
    return [Setting(values, jobs) for values, jobs in groups.values()]


def rank(sweep: Sweep) -> list[Setting]:
    """Returns the settings with a run that counts, lowest mean first."""
    return sorted((setting for setting in settings_of(sweep) if setting.n), key=lambda setting: setting.mean)


def compare(best: Setting, other: Setting) -> Difference:
    """Returns the difference of two settings: paired where two seeds are shared, else by Welch's interval."""
    shared = sorted((best.losses.keys() & other.losses.keys()) - {None}, key=str)
    if len(shared) > 1:
        differences = [other.losses[seed] - best.losses[seed] for seed in shared]
        return Difference(fmean(differences), of_mean(differences), f"paired over {len(shared)} seeds")
    mean = other.mean - best.mean
    if best.n > 1 and other.n > 1:
        return Difference(mean, welch(best, other), "of different seeds")
    return Difference(mean, None, "no two seeds in common")


def of_mean(values: list[float]) -> Interval | None:
    """Returns Student's interval of a mean; None of fewer than two values."""
    if len(values) < 2:
        return None
    half = quantile((1 + CONFIDENCE) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(fmean(values) - half, fmean(values) + half)


def welch(best: Setting, other: Setting) -> Interval:
    """Returns the interval of the difference of two independent means, of unequal variances (Welch 1947)."""
    shares = [((setting.deviation or 0.0) ** 2 / setting.n, setting.n - 1) for setting in (best, other)]
    variance, mean = sum(share for share, _ in shares), other.mean - best.mean
    if variance == 0:
        return Interval(mean, mean)
    freedom = variance**2 / sum(share**2 / count for share, count in shares)
    half = quantile((1 + CONFIDENCE) / 2, freedom) * math.sqrt(variance)
    return Interval(mean - half, mean + half)
