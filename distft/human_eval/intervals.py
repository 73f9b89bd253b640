"""Win rates with intervals: Wilson's for independent votes, clustered ones for votes that share raters or prompts.

Votes of one rater are alike, and so are votes on one prompt: an interval that takes all votes as independent is too
narrow (tests/human_eval/test_coverage.py measures how much). The clustered variance is V_rater + V_prompt - V_vote
(Cameron, Gelbach and Miller 2011), each with the small-sample factor G / (G - 1). The interval is on the logit scale
with Student's t of min(raters, prompts) - 1 degrees of freedom.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from distft.evaluate.statistics import wilson_bounds

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval. method: how it was made."""

    value: float
    low: float
    high: float
    stderr: float
    method: str


def wilson(wins: float, n: int, level: float = 0.95) -> Interval:
    """Returns a share with Wilson's score interval; n must be positive."""
    share, (low, high) = wins / n, wilson_bounds(wins, n, level)
    return Interval(share, low, high, float(np.sqrt(share * (1 - share) / n)), "wilson")


def group_variance(residuals: Floats, groups: Ints) -> float:
    """Returns the variance of the mean of residuals that are correlated within groups; infinite for one group.

    residuals, groups: [votes].
    """
    sums = np.bincount(groups, residuals)  # [groups]
    present = np.bincount(groups) > 0
    count = int(present.sum())
    return float((sums[present] ** 2).sum() * count / (count - 1) / len(residuals) ** 2) if count > 1 else np.inf


def two_way_variance(residuals: Floats, raters: Ints, prompts: Ints) -> tuple[float, int]:
    """Returns the variance of a mean, and its degrees of freedom; one way where there is one rater or one prompt."""
    by_rater, by_prompt = group_variance(residuals, raters), group_variance(residuals, prompts)
    counts = [len(np.unique(groups)) for groups in (raters, prompts)]
    if counts[0] < 2 or counts[1] < 2:
        return min(by_rater, by_prompt), max(counts) - 1
    cells = np.unique(np.stack([raters, prompts]), axis=1, return_inverse=True)[1]
    both = by_rater + by_prompt - group_variance(residuals, cells)
    return both if both > 0 else max(by_rater, by_prompt), min(counts) - 1


def clustered(scores: Floats, raters: Ints, prompts: Ints, level: float = 0.95) -> Interval | None:
    """Returns the mean score with its interval clustered by rater and prompt; None with one rater and one prompt.

    scores: [votes], 1 a win, 0.5 a tie, 0 a loss. Where all scores are equal there is no variance: Wilson's interval
    of as many votes as there are prompts.
    """
    value = float(scores.mean())
    variance, freedom = two_way_variance(scores - value, raters, prompts)
    if freedom < 1:
        return None
    if not 0 < value < 1 or variance == 0:
        found = wilson(value * len(np.unique(prompts)), len(np.unique(prompts)), level)
        return Interval(value, found.low, found.high, 0.0, "wilson by prompt: all votes are equal")
    stderr = float(np.sqrt(variance))
    width = float(stats.t.ppf(0.5 + level / 2, freedom)) * stderr / (value * (1 - value))
    logit = float(np.log(value / (1 - value)))
    low, high = (1 / (1 + np.exp(-(logit + sign * width))) for sign in (-1, 1))
    return Interval(value, float(low), float(high), stderr, f"two-way clustered, t with {freedom} degrees of freedom")


def clustered_mean(values: Floats, raters: Ints, prompts: Ints, level: float = 0.95) -> Interval | None:
    """Returns a mean, such as of ratings, with its interval clustered by rater and prompt; None as in `clustered`."""
    value = float(values.mean())
    variance, freedom = two_way_variance(values - value, raters, prompts)
    if freedom < 1:
        return None
    stderr = float(np.sqrt(variance))
    width = float(stats.t.ppf(0.5 + level / 2, freedom)) * stderr
    return Interval(value, value - width, value + width, stderr, f"two-way clustered, t with {freedom} df")


def bootstrap(scores: Floats, groups: Sequence[Ints], rng: np.random.Generator, level: float = 0.95) -> Interval | None:
    """Returns the mean score with a percentile interval from whole groups drawn with replacement; None for one group.

    groups: one array [votes] to resample by rater or by prompt; two to resample both at once (the pigeonhole bootstrap
    of Owen 2007, which is conservative).
    """
    if any(len(np.unique(each)) < 2 for each in groups):
        return None
    sizes = [int(each.max()) + 1 for each in groups] + [1] * (2 - len(groups))
    cells = groups[0] * sizes[1] + (groups[1] if len(groups) == 2 else 0)
    drawn = [rng.multinomial(size, np.full(size, 1 / size), RESAMPLES).astype(np.float64) for size in sizes]
    totals, counts = (  # [resamples]: sums over cells [first groups, second groups], times how often each was drawn
        ((drawn[0] @ np.bincount(cells, values, sizes[0] * sizes[1]).reshape(sizes)) * drawn[1]).sum(1)
        for values in (scores, np.ones(len(scores)))
    )
    means = totals[counts > 0] / counts[counts > 0]
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(scores.mean()), float(low), float(high), float(means.std(ddof=1)), f"{RESAMPLES} resamples")


def sign_test(wins: int, losses: int) -> float:
    """Returns the two-sided exact binomial p-value of wins against losses; 1 without either."""
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def permutation_test(scores: Floats, prompts: Ints, rng: np.random.Generator, flips: int = 9999) -> float:
    """Returns the p-value of a mean score of 0.5 when the systems are exchanged at random, prompt by prompt.

    With at most 12 prompts every exchange is counted.
    """
    sums = np.bincount(prompts, scores - 0.5)
    sums = sums[sums != 0]
    observed = abs(sums.sum()) - 1e-9
    if len(sums) <= 12:
        signs = np.array(np.meshgrid(*[[-1, 1]] * len(sums))).reshape(len(sums), -1).T if len(sums) else np.ones((1, 0))
        return float((np.abs(signs @ sums) >= observed).mean())
    signs = rng.choice([-1.0, 1.0], (flips, len(sums)))
    return float(((np.abs(signs @ sums) >= observed).sum() + 1) / (flips + 1))
