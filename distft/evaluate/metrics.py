"""Metrics of an evaluation over its items: estimates, slices, and the paired difference to another evaluation."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from distft.evaluate.metrics_file import SliceEntry, metric_entry
from distft.evaluate.statistics import Difference, Estimate, Value, cluster_numbers, estimate, mean, paired, resampled

LARGEST_EXPONENT = 700.0  # exp of more overflows fp64
FEW = 30  # items of a slice, below which it is marked
MOST_VALUES = 40  # of a slice; the rarest are joined
OTHERS = "(others)"


@dataclass(frozen=True)
class Metric:
    """One metric. counts: of each item, float64 [N, K]. value: of their sum. lower_is_better: None: neither is."""

    name: str
    counts: np.ndarray
    value: Value = mean
    is_binary: bool = False
    lower_is_better: bool | None = False


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one model over N items.

    ids: one for each, equal for equal items. clusters: what groups the items, such as a conversation's source row.
    whole: metrics that are no function of sums, of all items together. pooled: the same of some items.
    """

    ids: Sequence[str]
    clusters: Sequence[str]
    metrics: Sequence[Metric]
    whole: Mapping[str, Estimate] = field(default_factory=dict)
    pooled: Callable[[np.ndarray], Mapping[str, float]] | None = None

    def estimates(self, index: np.ndarray | None = None) -> dict[str, Estimate]:
        """Returns the metrics with standard errors, over the items at `index` or all."""
        chosen = np.arange(len(self.ids)) if index is None else index
        clusters = cluster_numbers([self.clusters[i] for i in chosen.tolist()])
        found = {}
        for metric in self.metrics:
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                made = estimate(metric.counts[chosen], metric.value, clusters)
            if metric.is_binary and made.low is not None and made.high is not None:  # a share
                made = replace(made, low=max(0.0, made.low), high=min(1.0, made.high))
            found[metric.name] = made
        return found


@dataclass(frozen=True)
class Comparison:
    """An evaluation against another one on the items of both. notes: metrics that are not compared, and why."""

    differences: Mapping[str, Difference]
    theirs: Mapping[str, float]
    matched: int
    only_ours: int
    only_theirs: int
    notes: Sequence[str] = ()


def perplexity(sums: np.ndarray) -> np.ndarray:
    """Returns exp of the loss per target weight; sums: (loss, weight)."""
    return np.exp(np.minimum(mean(sums), LARGEST_EXPONENT))


def language_model_metrics(
    loss: np.ndarray, weight: np.ndarray, correct: np.ndarray, targets: np.ndarray
) -> list[Metric]:
    """Returns loss in nats per target token, perplexity and accuracy from sums by item, each [N]."""
    losses = np.stack([loss, weight], 1)
    return [
        Metric("loss", losses, lower_is_better=True),
        Metric("perplexity", losses, perplexity, lower_is_better=True),
        Metric("accuracy", np.stack([correct, targets], 1)),
    ]


def compare(ours: Evaluation, theirs: Evaluation) -> Comparison:
    """Returns the paired differences on the items that both evaluations have, matched by content."""
    mine, other = ({key: i for i, key in enumerate(each.ids)} for each in (ours, theirs))
    both = [key for key in mine if key in other]
    left = np.array([mine[key] for key in both], dtype=np.int64)
    right = np.array([other[key] for key in both], dtype=np.int64)
    clusters = cluster_numbers([ours.clusters[i] for i in left.tolist()])
    by_name = {metric.name: metric for metric in theirs.metrics}
    differences, values, notes = {}, {}, []
    for metric in ours.metrics if both else ():
        if metric.name not in by_name:
            continue
        a, b = metric.counts[left], by_name[metric.name].counts[right]
        if metric.name in ("loss", "perplexity", "accuracy") and not np.allclose(a[:, -1], b[:, -1]):
            notes.append(f"{metric.name} is not compared: the two tokenize the rows differently")
            continue
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            differences[metric.name] = paired(a, b, metric.value, clusters, metric.is_binary)
            values[metric.name] = float(metric.value(b.sum(0)))
    if both and ours.pooled is not None and theirs.pooled is not None:
        of_ours, of_theirs = ours.pooled, theirs.pooled
        values |= of_theirs(right)
        differences |= resampled(lambda at: of_ours(left[at]), lambda at: of_theirs(right[at]), clusters)
    matched = len(both)
    return Comparison(differences, values, matched, len(mine) - matched, len(other) - matched, notes)


def verdict(lower_is_better: bool | None, found: Difference) -> str:
    """Returns better, worse (lower, higher where neither is), or that no difference is shown, with the number of items
    that would show this one.

    lower_is_better: None: neither is.
    """
    if found.is_shown and lower_is_better is None:
        return "lower" if found.difference < 0 else "higher"
    if found.is_shown:
        return "better" if (found.difference < 0) == lower_is_better else "worse"
    if found.items_needed is None:
        return "no difference shown"
    return f"no difference shown; about {found.items_needed:,} items needed for one of this size"


def slice_indices(values: Sequence[Any]) -> dict[str, np.ndarray]:
    """Returns the items with each value, the most frequent first; the rarest of more than 40 are joined."""
    places: dict[str, list[int]] = defaultdict(list)
    for i, value in enumerate(values):
        places["(none)" if value is None else str(value)].append(i)
    ordered = sorted(places.items(), key=lambda each: (-len(each[1]), each[0]))
    if len(ordered) > MOST_VALUES:
        rest = [i for _, found in ordered[MOST_VALUES - 1 :] for i in found]
        ordered = [*ordered[: MOST_VALUES - 1], (OTHERS, sorted(rest))]
    return {value: np.array(found, dtype=np.int64) for value, found in ordered}


def slices(evaluation: Evaluation, columns: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, SliceEntry]]:
    """Returns slice -> value -> {n, few, metrics}; few: fewer than 30 items. columns: the value of each item."""
    found: dict[str, dict[str, SliceEntry]] = {}
    for name, values in columns.items():
        found[name] = {}
        for value, index in slice_indices(values).items():
            metrics = {metric: metric_entry(each) for metric, each in evaluation.estimates(index).items()}
            found[name][value] = {"n": len(index), "few": len(index) < FEW, "metrics": metrics}
    return found
