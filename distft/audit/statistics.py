"""Statistics of the audit: intervals, tests, and their correction for many comparisons.

Sources: Monroe, Colaresi and Quinn 2008 (log-odds with an informative Dirichlet prior); Benjamini and Hochberg 1995
(false discovery rate). Wilson's interval and Holm's correction are in distft.evaluate.statistics.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import fisher_exact, norm

from distft.evaluate.statistics import wilson_bounds

Z95 = float(norm.ppf(0.975))
RESAMPLES = 1000
Interval = tuple[float, float]


def wilson(successes: float, total: float) -> Interval:
    """Returns the 95% Wilson interval of a share; (0, 1) without trials."""
    return wilson_bounds(successes, total) if total else (0.0, 1.0)


def difference_of_shares(one: tuple[int, int], other: tuple[int, int]) -> Interval:
    """Returns Newcombe's 95% interval of one share less another; each is (successes, trials)."""
    p, q = one[0] / max(1, one[1]), other[0] / max(1, other[1])
    (p_low, p_high), (q_low, q_high) = wilson(*one), wilson(*other)
    below = math.sqrt((p - p_low) ** 2 + (q_high - q) ** 2)
    above = math.sqrt((p_high - p) ** 2 + (q - q_low) ** 2)
    return p - q - below, p - q + above


def independence(table: Sequence[Sequence[int]]) -> float:
    """Returns the p-value of Fisher's exact test of a 2 x 2 table, two-sided."""
    found: Any = fisher_exact(np.asarray(table))  # scipy's types do not name its fields
    return float(found.pvalue)


@dataclass(frozen=True)
class LogOdds:
    """Difference of two log-odds: natural logarithm, standard score and two-sided p-value."""

    value: float
    z: float
    p: float

    @property
    def interval(self) -> Interval:
        """The 95% interval of the value."""
        half = Z95 * abs(self.value / self.z) if self.z else 0.0
        return self.value - half, self.value + half


def log_odds(counts: tuple[int, int], totals: tuple[int, int], background: float, prior: float) -> LogOdds:
    """Returns how much likelier a term is in one corpus than in another, with an informative Dirichlet prior.

    counts: of the term in each corpus. totals: of all draws in each. background: share of the term in all text, which
    the prior repeats `prior` times in each corpus, so rare terms are drawn to no difference.
    """
    pseudo = max(prior * background, 1e-9)
    odds = [
        math.log((count + pseudo) / max(total + prior - count - pseudo, 1e-9))
        for count, total in zip(counts, totals, strict=True)
    ]
    variance = sum(1 / (count + pseudo) + 1 / max(total + prior - count - pseudo, 1e-9)
                   for count, total in zip(counts, totals, strict=True))  # fmt: skip
    value = odds[0] - odds[1]
    z = value / math.sqrt(variance)
    return LogOdds(value, z, float(2 * norm.sf(abs(z))))


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values adjusted for the false discovery rate."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [min(1.0, p_values[i] * len(order) / rank) for rank, i in enumerate(order, 1)]
    found = [0.0] * len(order)
    for i, value in zip(order, np.minimum.accumulate(adjusted[::-1])[::-1], strict=True):
        found[i] = float(value)
    return found


@dataclass(frozen=True)
class Resampled:
    """A statistic with its percentile interval over resamples of the items; p: two-sided, of no difference to 0."""

    value: float
    low: float
    high: float
    p: float


def bootstrap(values: np.ndarray, statistic=np.mean, seed: int = 0) -> Resampled:
    """Returns a statistic of the items with a bootstrap interval. values: [items, ...]; statistic: over axis 0."""
    if not len(values):
        return Resampled(math.nan, math.nan, math.nan, 1.0)
    generator = np.random.default_rng(seed)
    picks = generator.integers(0, len(values), (RESAMPLES, len(values)))
    drawn = np.array([statistic(values[pick], axis=0) for pick in picks])
    low, high = np.percentile(drawn, (2.5, 97.5))
    below, above = np.mean(drawn <= 0), np.mean(drawn >= 0)
    p = min(1.0, 2 * (min(below, above) * RESAMPLES + 1) / (RESAMPLES + 1))
    return Resampled(float(statistic(values, axis=0)), float(low), float(high), float(p))
