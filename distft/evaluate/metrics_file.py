"""The content of metrics.json by its keys, in the order of the file; null for what is not known."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from distft.evaluate.statistics import Difference, Estimate


class MetricEntry(TypedDict):
    """A metric with its standard error and 95% interval; null with fewer than two clusters. n: items."""

    value: float
    stderr: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int


class SliceEntry(TypedDict):
    """The metrics of the items with one value of a column. few: fewer than 30 items."""

    n: int
    few: bool
    metrics: dict[str, MetricEntry]


class DifferenceEntry(TypedDict):
    """The paired difference of a metric to the other model, whose value is `theirs`."""

    difference: float
    stderr: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    clusters: int
    test: str
    items_needed: int | None
    theirs: float
    verdict: str


class BenchmarkMetric(TypedDict):
    """A metric of a benchmark by lm-eval; interval and n: from the scores of its questions, where it has such."""

    value: float
    stderr: float | None
    low: NotRequired[float | None]
    high: NotRequired[float | None]
    n: NotRequired[int]


class BenchmarkSettings(TypedDict):
    """What the scores of benchmarks depend on apart from the task. limit: questions of each task."""

    dtype: str
    chat_template: bool
    limit: int | None
    padding: str
    model_hash: str | None
    versions: dict[str, str | None]


class Benchmark(TypedDict):
    """A benchmark and what its metrics depend on; the last six are BenchmarkSettings. n: questions."""

    metrics: dict[str, BenchmarkMetric]
    n: int
    num_fewshot: int | None
    version: str | float | None
    template_hash: str
    stop: list[str] | None
    dtype: NotRequired[str]
    chat_template: NotRequired[bool]
    limit: NotRequired[int | None]
    padding: NotRequired[str]
    model_hash: NotRequired[str | None]
    versions: NotRequired[dict[str, str | None]]


class Matched(TypedDict):
    """The other model, and the items of both and of one alone."""

    name: str | None
    matched: int
    only_here: int
    only_there: int


class MetricsFile(TypedDict):
    step: int
    at: str
    model: str
    label: str | None
    rows: int
    metrics: dict[str, MetricEntry]
    slices: dict[str, dict[str, SliceEntry]]  # column -> value
    against: dict[str, DifferenceEntry]
    benchmarks: dict[str, Benchmark]
    settings: Mapping[str, object]  # what the numbers depend on apart from the model and the rows
    notes: list[str]
    judge: NotRequired[Mapping[str, Any]]  # as distft.judges.pairs.summary makes it, with verdict and settings
    against_model: NotRequired[Matched]


def metric_entry(found: Estimate) -> MetricEntry:
    """Returns an estimate as metrics.json has it."""
    return {
        "value": found.value,
        "stderr": found.stderr,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "clusters": found.clusters,
    }


def difference_entry(found: Difference, theirs: float, verdict: str) -> DifferenceEntry:
    """Returns a difference as metrics.json has it. verdict: what it shows."""
    return {
        "difference": found.difference,
        "stderr": found.stderr,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "n": found.n,
        "clusters": found.clusters,
        "test": found.test,
        "items_needed": found.items_needed,
        "theirs": theirs,
        "verdict": verdict,
    }
