"""Ranks the settings of a sweep, with confidence intervals of their means and differences.

A setting is the swept values without the seed; runs that differ only in the seed are its repetitions.
Trap: two runs of one setting with one seed are one observation, so `n` is the number of seeds.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from distft.report.sweep.jobs import Job, Sweep


def quantile(probability: float, freedom: float) -> float:
    """Returns the quantile of Student's t distribution; freedom > 0 need not be an integer."""
    from scipy.special import stdtrit  # scipy.stats.t.ppf calls it; scipy.stats takes twice as long to import

    return float(stdtrit(freedom, probability))


CONFIDENCE = 0.95
Values = Mapping[str, Any]  # swept key -> value


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Setting:
    """The runs that differ only in their seed."""

    values: Values
    jobs: list[Job]  # in any state

    @property
    def results(self) -> dict[int | None, float]:
        """The mean objective (eval.metric) of the ranked runs by seed."""
        seeds: dict[int | None, list[float]] = defaultdict(list)
        for job in self.jobs:
            if job.is_ranked:
                seeds[job.seed].append(job.value)
        return {seed: fmean(losses) for seed, losses in seeds.items()}

    @property
    def n(self) -> int:
        return len(self.results)

    @property
    def mean(self) -> float:
        return fmean(self.results.values())

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds; None for one seed."""
        return stdev(self.results.values()) if self.n > 1 else None

    @property
    def interval(self) -> Interval | None:
        return of_mean(list(self.results.values()))

    @property
    def best(self) -> Job:
        """The run with the best objective."""
        return min((job for job in self.jobs if job.is_ranked), key=lambda job: job.cost)

    @property
    def process_hours(self) -> float:
        return sum(job.process_hours for job in self.jobs)

    @property
    def tokens(self) -> int:
        return sum(job.tokens for job in self.jobs)


@dataclass(frozen=True)
class Difference:
    """How much worse a setting is than the best: the difference of their means, positive where the order holds."""

    mean: float
    interval: Interval | None  # None: too few seeds
    how: str  # the seeds were compared

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes zero, so that the seeds do not explain the order."""
        return self.interval is not None and self.interval.low > 0


def settings_of(sweep: Sweep) -> list[Setting]:
    """Returns every setting in launch order."""
    groups: dict[str, tuple[Values, list[Job]]] = {}
    for job in sweep.jobs:
        values = {key: job.values.get(key) for key in sweep.swept if key != "seed"}
        groups.setdefault(json.dumps(values, sort_keys=True), (values, []))[1].append(job)
    return [Setting(values, jobs) for values, jobs in groups.values()]


def rank(sweep: Sweep) -> list[Setting]:
    """Returns the settings with a ranked run, best mean first."""
    ranked = (setting for setting in settings_of(sweep) if setting.n)
    return sorted(ranked, key=lambda setting: sweep.selection.sign * setting.mean)


def compare(best: Setting, other: Setting) -> Difference:
    """Returns the difference of two settings: paired where they share two seeds, else with Welch's interval."""
    sign = best.best.selection.sign
    shared = sorted((best.results.keys() & other.results.keys()) - {None}, key=str)
    if len(shared) > 1:
        differences = [sign * (other.results[seed] - best.results[seed]) for seed in shared]
        return Difference(fmean(differences), of_mean(differences), f"paired over {len(shared)} seeds")
    mean = sign * (other.mean - best.mean)
    if best.n > 1 and other.n > 1:
        return Difference(mean, welch(best, other, mean), "of different seeds")
    return Difference(mean, None, "no two seeds in common")


def of_mean(values: list[float]) -> Interval | None:
    """Returns Student's confidence interval of a mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    half = quantile((1 + CONFIDENCE) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(fmean(values) - half, fmean(values) + half)


def welch(best: Setting, other: Setting, mean: float) -> Interval:
    """Returns the interval around the difference `mean` of two independent means with unequal variances (Welch)."""
    shares = [((setting.deviation or 0.0) ** 2 / setting.n, setting.n - 1) for setting in (best, other)]
    variance = sum(share for share, _ in shares)
    if variance == 0:
        return Interval(mean, mean)
    freedom = variance**2 / sum(share**2 / count for share, count in shares)
    half = quantile((1 + CONFIDENCE) / 2, freedom) * math.sqrt(variance)
    return Interval(mean - half, mean + half)
