"""Standard errors and paired differences of metrics that are functions of sums over items.

A metric is value(sum of the items' counts): a mean has the counts (score, 1), BLEU its n-gram counts and lengths. The
standard error is that of the infinitesimal jackknife (delta method). Items of one conversation are not independent, so
both standard errors and p-values treat clusters as the independent units (Miller 2024, arXiv 2411.00640).
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

Value = Callable[[np.ndarray], np.ndarray]  # sums [..., K] -> metric [...]
CONFIDENCE, POWER = 0.95, 0.8
RESAMPLES = 400
PERMUTATIONS, EXACT_CLUSTERS, CHUNK = 10_000, 13, 500  # up to 2**13 sign patterns are enumerated
_STEP, _TIE = 1e-5, 1e-12  # relative


@dataclass(frozen=True)
class Estimate:
    """A metric with its standard error and 95% interval; None with fewer than two clusters."""

    value: float
    stderr: float | None
    low: float | None
    high: float | None
    n: int  # items
    clusters: int


@dataclass(frozen=True)
class Difference:
    """The paired difference of one metric, first model minus second, on the same items."""

    difference: float
    stderr: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    clusters: int
    test: str  # mcnemar, permutation or bootstrap
    items_needed: int | None  # for this effect at 80% power; None where there is no effect or no standard error

    @property
    def is_shown(self) -> bool:
        """Whether the interval excludes 0 and p is below 0.05."""
        if self.p is None or self.low is None or self.high is None:
            return False
        return self.p < 1 - CONFIDENCE and (self.low > 0 or self.high < 0)


def mean(sums: np.ndarray) -> np.ndarray:
    """Returns the mean of counts (score, number)."""
    return sums[..., 0] / sums[..., 1]


def cluster_numbers(clusters: Sequence[Hashable]) -> np.ndarray:
    """Returns the number of each item's cluster, from 0 in order of appearance, int64 [N]."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(each, len(numbers)) for each in clusters], dtype=np.int64)


def estimate(counts: np.ndarray, value: Value, clusters: np.ndarray) -> Estimate:
    """Returns a metric over items. counts: [N, K]. clusters: number of each item's cluster, [N]."""
    found = float(value(counts.sum(0)))
    size = int(clusters.max()) + 1
    stderr = _stderr(_influence(counts, value), clusters)
    half = None if stderr is None else stderr * _quantile(size)
    return Estimate(
        found, stderr, None if half is None else found - half, None if half is None else found + half, len(counts), size
    )


def paired(ours: np.ndarray, theirs: np.ndarray, value: Value, clusters: np.ndarray, is_binary: bool) -> Difference:
    """Returns the difference of a metric between two models on the same N items.

    ours, theirs: counts [N, K] in the same order of items. is_binary: each item scores 0 or 1.
    """
    size = int(clusters.max()) + 1
    found = float(value(ours.sum(0)) - value(theirs.sum(0)))
    stderr = _stderr(_influence(ours, value) - _influence(theirs, value), clusters)
    if stderr is None:
        return Difference(found, None, None, None, None, len(ours), size, "none", None)
    half = stderr * _quantile(size)
    if is_binary and size == len(ours):
        test, p = "mcnemar", mcnemar(ours[:, 0], theirs[:, 0])
    else:
        test, p = "permutation", permutation(_by_cluster(ours, clusters), _by_cluster(theirs, clusters), value)
    needed = items_needed(found, stderr, len(ours))
    return Difference(found, stderr, found - half, found + half, p, len(ours), size, test, needed)


def resampled(
    ours: Callable[[np.ndarray], Mapping[str, float]],
    theirs: Callable[[np.ndarray], Mapping[str, float]],
    clusters: np.ndarray,
) -> dict[str, Difference]:
    """Returns the differences of metrics that are not functions of sums, such as AUROC, by a bootstrap of clusters.

    ours, theirs: metrics by name over the items at an index, with repetitions. p: twice the share of resamples on the
    other side of 0.
    """

    def differences(items: np.ndarray) -> dict[str, float]:
        left, right = ours(items), theirs(items)
        return {name: left[name] - right[name] for name in left if name in right}

    size, random = int(clusters.max()) + 1, np.random.default_rng(0)
    members = [np.flatnonzero(clusters == each) for each in range(size)]
    found = differences(np.arange(len(clusters)))
    drawn: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(RESAMPLES if size > 1 else 0):
        items = np.concatenate([members[each] for each in random.integers(0, size, size)])
        for name, value in differences(items).items():
            drawn[name].append(value)
    return {name: _of_resamples(value, np.array(drawn[name]), clusters) for name, value in found.items()}


def _of_resamples(found: float, drawn: np.ndarray, clusters: np.ndarray) -> Difference:
    n, size, known = len(clusters), int(clusters.max()) + 1, drawn[np.isfinite(drawn)]
    if len(known) < RESAMPLES / 2:  # undefined in most resamples
        return Difference(found, None, None, None, None, n, size, "none", None)
    stderr = float(known.std(ddof=1))
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    p = min(1.0, 2 * (1 + min(int((known <= 0).sum()), int((known >= 0).sum()))) / (1 + len(known)))
    return Difference(found, stderr, float(low), float(high), p, n, size, "bootstrap", items_needed(found, stderr, n))


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Returns the two-sided mid-p value of McNemar's test for scores of 0 and 1, [N].

    The exact test is conservative; its mid-p variant keeps close to the nominal level (Fagerland et al. 2013).
    """
    only_ours, only_theirs = int((ours > theirs).sum()), int((ours < theirs).sum())
    fewer, discordant = min(only_ours, only_theirs), only_ours + only_theirs
    if discordant == 0:
        return 1.0
    from scipy.stats import binom  # a second to import, which every command would wait for

    exact = min(1.0, 2 * float(binom.cdf(fewer, discordant, 0.5)))
    if only_ours == only_theirs:  # both tails include the middle
        return 1.0 - float(binom.pmf(fewer, discordant, 0.5))
    return exact - float(binom.pmf(fewer, discordant, 0.5))


def permutation(ours: np.ndarray, theirs: np.ndarray, value: Value) -> float:
    """Returns the two-sided p-value of exchanging the two models' answers, cluster by cluster.

    Known as approximate randomization (Noreen 1989). ours, theirs: sums of the counts by cluster, [G, K]. Up to 13
    clusters all exchanges are made, above 10,000 random ones with a fixed seed.
    """
    size = len(ours)
    middle, halves = (ours + theirs).sum(0) / 2, (ours - theirs) / 2
    found = abs(float(value(middle + halves.sum(0)) - value(middle - halves.sum(0))))
    limit = found * (1 - _TIE)
    if size <= EXACT_CLUSTERS:
        signs = 1.0 - 2.0 * ((np.arange(2**size)[:, None] >> np.arange(size)) & 1)
        return float((_exchanged(signs, middle, halves, value) >= limit).mean())
    random = np.random.default_rng(0)
    as_large = 0
    for start in range(0, PERMUTATIONS, CHUNK):
        rows = min(CHUNK, PERMUTATIONS - start)
        signs = 1.0 - 2.0 * random.integers(0, 2, (rows, size))
        as_large += int((_exchanged(signs, middle, halves, value) >= limit).sum())
    return (1 + as_large) / (1 + PERMUTATIONS)


def items_needed(difference: float, stderr: float, n: int) -> int | None:
    """Returns how many items would show this difference at the 5% level with 80% power, from its standard error on n.

    None where the difference or its standard error is 0.
    """
    if difference == 0 or stderr == 0:
        return None
    both = float(ndtri((1 + CONFIDENCE) / 2) + ndtri(POWER))
    return int(np.ceil(n * (both * stderr / difference) ** 2))


def _exchanged(signs: np.ndarray, middle: np.ndarray, halves: np.ndarray, value: Value) -> np.ndarray:
    moved = signs @ halves  # [patterns, K]
    return np.abs(value(middle + moved) - value(middle - moved))


def _influence(counts: np.ndarray, value: Value) -> np.ndarray:
    """Returns each item's influence on the metric, [N]: the gradient at the sums times the item's counts.

    A metric does not change when all counts are multiplied, so the influences sum to 0 (Euler).
    """
    sums = counts.sum(0)
    steps = np.diag(_STEP * np.maximum(np.abs(sums), 1.0))
    gradient = (value(sums + steps) - value(sums - steps)) / (2 * np.diag(steps))
    return counts @ gradient


def _stderr(influence: np.ndarray, clusters: np.ndarray) -> float | None:
    size = int(clusters.max()) + 1
    if size < 2:
        return None
    return float(np.sqrt(size / (size - 1) * np.square(np.bincount(clusters, influence, size)).sum()))


def _quantile(clusters: int) -> float:
    return float(stdtrit(clusters - 1, (1 + CONFIDENCE) / 2))


def _by_cluster(counts: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    sums = np.zeros((int(clusters.max()) + 1, counts.shape[1]))
    np.add.at(sums, clusters, counts)
    return sums


def wilson_bounds(successes: float, trials: float, level: float = CONFIDENCE) -> tuple[float, float]:
    """Returns Wilson's score interval (1927) of a share; trials must be positive."""
    z, share = float(ndtri((1 + level) / 2)), successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted for the family-wise error by Holm's step-down method (1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = float(largest)
    return adjusted
