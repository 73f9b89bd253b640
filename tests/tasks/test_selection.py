"""One place decides which evaluation is the best: by the metric, its goal and the order of the steps."""

import math

import pytest

from distft.tasks import load_task, task_names
from distft.tasks.selection import Selection, goal_of


@pytest.mark.parametrize(
    ("metric", "goal"),
    [("loss", "minimize"), ("perplexity", "minimize"), ("mae", "minimize"), ("ece", "minimize"),
     ("accuracy", "maximize"), ("auroc", "maximize"), ("r2", "maximize"), ("preference_accuracy", "maximize")],
)  # fmt: skip
def test_auto_knows_which_metrics_are_errors(metric: str, goal: str) -> None:
    assert goal_of(metric, "auto") == goal
    assert goal_of(metric, "maximize") == "maximize" and goal_of(metric, "minimize") == "minimize"


def test_the_best_step_is_the_first_of_equal_ones() -> None:
    evals = [{"step": 0, "accuracy": 0.2}, {"step": 2, "accuracy": 0.7}, {"step": 4, "accuracy": 0.7}]
    highest, lowest = Selection.of("accuracy", "auto"), Selection.of("accuracy", "minimize")
    assert highest.best_step(highest.values(evals)) == 2 and lowest.best_step(lowest.values(evals)) == 0
    assert highest.best_step({}) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_non_finite_value_is_never_the_best(value: float | None) -> None:
    for selection in (Selection(), Selection("accuracy", "maximize")):
        found = selection.value({selection.metric: value})
        assert found is None and not selection.is_better(found, None)


def test_min_delta_is_measured_in_the_direction_of_the_goal() -> None:
    assert Selection("accuracy", "maximize").is_better(0.63, 0.6, 0.02)
    assert not Selection("accuracy", "maximize").is_better(0.61, 0.6, 0.02)
    assert Selection().is_better(0.57, 0.6, 0.02) and not Selection().is_better(0.59, 0.6, 0.02)


def test_every_task_has_the_loss() -> None:
    assert all("loss" in load_task(name).metric_names for name in task_names())
