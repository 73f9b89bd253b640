"""How metrics are written for people: which ones an evaluation has, in which order, and with how many digits."""

import math
from collections.abc import Mapping
from typing import Any

from distft.tasks import load_task, task_names

LOWER_IS_BETTER = ("loss", "perplexity", "mse", "mae", "ece", "reward_rejected", "kl")
_PERCENT = ("accuracy", "f1_macro", "f1_micro", "preference_accuracy")


def all_metrics() -> list[str]:
    """Returns the names of the metrics of all tasks, without the loss."""
    tasks = list(map(load_task, task_names()))
    named = [name for task in tasks for names in (task.metric_names, *task.further_metrics.values()) for name in names]
    return list(dict.fromkeys(name for name in named if name != "loss"))


def metric_names(row: Mapping[str, Any]) -> list[str]:
    """Returns the names of the metrics in a row of metrics.jsonl, without the loss, in the order of their task."""
    return [name for name in all_metrics() if name in row]


def metric_text(name: str, value: float | None) -> str:
    """Returns a value as text: a share in percent, a perplexity with two digits, others with four."""
    if value is None or not math.isfinite(value):
        return "undefined"
    if name in _PERCENT:
        return f"{value:.1%}"
    return f"{value:.2f}" if name == "perplexity" else f"{value:.4f}"
