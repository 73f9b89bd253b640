"""Metrics of tasks with labels or pairs, over the items of an evaluation.

Those that follow from sums, such as accuracy, are metrics like all others. Those of all units together, such as AUROC,
have the standard error and the interval of a bootstrap over clusters of items.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distft.evaluate.metrics import Metric
from distft.evaluate.statistics import Estimate, cluster_numbers
from distft.tasks import Evaluated, Task
from distft.tasks.selection import goal_of

BASE = ("loss", "weight", "targets")  # of every item; further sums are the loss's
RESAMPLES, SEED = 400, 0
INTERVAL = (2.5, 97.5)  # percent


@dataclass(frozen=True)
class Units:
    """The units of one item: outputs of the model's head [U, C], and labels [U, L]."""

    outputs: np.ndarray
    labels: np.ndarray


def metrics_of_sums(task: Task, sums: Mapping[str, np.ndarray]) -> list[Metric]:
    """Returns the loss and the task's metrics of sums. sums: by name, each [N]."""
    names = [name for name in sums if name not in BASE]
    counts = np.stack([*(sums[name] for name in names), sums["targets"]], 1)

    def value(of: str, whole: np.ndarray) -> np.ndarray:
        """Returns a metric from sums [..., K]."""
        flat = whole.reshape(-1, whole.shape[-1])
        found = [task.metrics(dict(zip(names, each, strict=False)), each[-1])[of] for each in flat]
        return np.array(found).reshape(whole.shape[:-1])

    found = [Metric("loss", np.stack([sums["loss"], sums["weight"]], 1), lower_is_better=True)]
    for name in task.metrics(dict.fromkeys(names, 1.0), 1):
        lower = goal_of(name, "auto") == "minimize"
        found.append(Metric(name, counts, lambda whole, of=name: value(of, whole), lower_is_better=lower))
    return found


def metrics_of_all(task: Task, units: Sequence[Units], clusters: Sequence[str]) -> dict[str, Estimate]:
    """Returns the task's metrics of all units together; empty for a task without such metrics.

    clusters: what groups the items, one for each.
    """
    if not task.gathers or not units:
        return {}
    numbers = cluster_numbers(clusters)
    size = int(numbers.max()) + 1
    members = [np.flatnonzero(numbers == cluster) for cluster in range(size)]
    whole = _of(task, units)
    choose = np.random.default_rng(SEED)
    drawn: dict[str, list[float]] = {name: [] for name in whole}
    for _ in range(RESAMPLES if size > 1 else 0):
        items = np.concatenate([members[cluster] for cluster in choose.integers(0, size, size)])
        for name, value in _of(task, [units[i] for i in items]).items():
            drawn[name].append(value)
    return {name: _estimate(value, drawn[name], len(units), size) for name, value in whole.items()}


def pooled(task: Task, units: Sequence[Units]) -> Callable[[np.ndarray], Mapping[str, float]] | None:
    """Returns the same metrics as a function of the items' numbers; None for a task without such metrics."""
    if not task.gathers or not units:
        return None
    return lambda items: _of(task, [units[i] for i in items])


def _of(task: Task, units: Sequence[Units]) -> Mapping[str, float]:
    outputs, labels = (np.concatenate([getattr(each, part) for each in units]) for part in ("outputs", "labels"))
    with np.errstate(divide="ignore", invalid="ignore"):
        return task.held_out(Evaluated(0.0, outputs, labels))


def _estimate(value: float, drawn: Sequence[float], items: int, clusters: int) -> Estimate:
    known = np.array(drawn)[np.isfinite(drawn)] if drawn else np.zeros(0)
    if len(known) < RESAMPLES / 2:  # undefined in most resamples, as AUROC of rows of one class
        return Estimate(value, None, None, None, items, clusters)
    low, high = np.percentile(known, INTERVAL)
    return Estimate(value, float(known.std(ddof=1)), float(low), float(high), items, clusters)
