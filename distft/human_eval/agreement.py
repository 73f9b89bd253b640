"""How far raters agree: Krippendorff's alpha with an interval, Cohen's kappa, and agreement with oneself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distft.human_eval.intervals import Floats

Level = Literal["nominal", "interval"]


@dataclass(frozen=True)
class Alpha:
    """Krippendorff's alpha with a 95% interval from resampled items; None without variation. items: with two votes."""

    value: float | None
    low: float | None
    high: float | None
    items: int
    votes: int


def coincidences(counts: NDArray[np.int64]) -> Floats:
    """Returns each item's coincidence matrix. counts: [items, values], votes per value; result [items, values, values].

    Items with fewer than two votes contribute nothing.
    """
    votes = counts.sum(1)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1])[None]
    weight = np.where(votes > 1, 1 / np.maximum(votes - 1, 1), 0.0)
    return pairs * weight[:, None, None]


def distances(values: Sequence[float], level: Level) -> Floats:
    """Returns the squared difference of each two values: 1 for nominal values that differ."""
    v = np.asarray(values, dtype=np.float64)
    return (v[:, None] != v[None]).astype(np.float64) if level == "nominal" else (v[:, None] - v[None]) ** 2


def alpha_of(table: Floats, delta: Floats) -> Floats:
    """Returns alpha of coincidence matrices [..., values, values]; NaN without variation."""
    marginal = table.sum(-1)
    total = marginal.sum(-1)
    observed = (table * delta).sum((-2, -1))
    expected = (marginal[..., :, None] * marginal[..., None, :] * delta).sum((-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - observed * (total - 1) / expected


def krippendorff_alpha(
    counts: NDArray[np.int64], values: Sequence[float], level: Level, rng: np.random.Generator, resamples: int = 1000
) -> Alpha:
    """Returns alpha of votes. counts: [items, values]: how many raters gave each value."""
    counts = counts[counts.sum(1) > 1]
    items, votes = len(counts), int(counts.sum())
    if not items:
        return Alpha(None, None, None, 0, 0)
    tables, delta = coincidences(counts), distances(values, level)
    value = float(alpha_of(tables.sum(0), delta))
    drawn = rng.multinomial(items, np.full(items, 1 / items), resamples).astype(np.float64)
    many = alpha_of((drawn @ tables.reshape(items, -1)).reshape(resamples, *delta.shape), delta)
    many = many[np.isfinite(many)]
    if not np.isfinite(value) or not len(many):
        return Alpha(None, None, None, items, votes)
    low, high = np.quantile(many, [0.025, 0.975])
    return Alpha(value, float(low), float(high), items, votes)


def cohen_kappa(one: Sequence[str], other: Sequence[str]) -> float | None:
    """Returns Cohen's kappa of two raters' values for the same items; None without variation."""
    values = sorted({*one, *other})
    index = {value: i for i, value in enumerate(values)}
    table = np.zeros((len(values), len(values)))
    for a, b in zip(one, other, strict=True):
        table[index[a], index[b]] += 1
    table /= max(len(one), 1)
    expected = float(table.sum(0) @ table.sum(1))
    return None if expected >= 1 or not len(one) else float((np.trace(table) - expected) / (1 - expected))


def mean_kappa(votes: Mapping[str, Mapping[str, str]]) -> tuple[float | None, int]:
    """Returns the mean kappa of all pairs of raters with shared items, weighted by their number, and the pairs.

    votes: rater -> item -> value.
    """
    total, weight, pairs = 0.0, 0, 0
    for one, other in combinations(sorted(votes), 2):
        shared = sorted(votes[one].keys() & votes[other].keys())
        kappa = cohen_kappa([votes[one][item] for item in shared], [votes[other][item] for item in shared])
        if len(shared) >= 2 and kappa is not None:
            total, weight, pairs = total + kappa * len(shared), weight + len(shared), pairs + 1
    return (total / weight if weight else None), pairs
