"""Metrics of tasks with labels over the items of an evaluation, held to closed forms and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from distft.evaluate.metrics import Evaluation
from distft.evaluate.unit_metrics import RESAMPLES, Units, metrics_of_all, metrics_of_sums
from distft.tasks import load_task


def classified(count: int, seed: int = 0) -> tuple[list[Units], np.ndarray]:
    """Returns units of two classes whose logits are right more often than not, and their labels."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, count)
    logits = draw.normal(size=(count, 2))
    logits[np.arange(count), labels] += 1.0
    return [Units(logits[i : i + 1], labels[i : i + 1, None].astype(float)) for i in range(count)], labels


def test_accuracy_and_loss_are_means_over_items() -> None:
    sums = {"loss": np.array([1.0, 3.0]), "weight": np.array([1.0, 2.0]), "targets": np.ones(2)}
    metrics = metrics_of_sums(load_task("sequence_classification"), sums | {"correct": np.array([1.0, 0.0])})
    found = Evaluation(["a", "b"], ["a", "b"], metrics).estimates()
    assert found["loss"].value == pytest.approx(4 / 3) and found["accuracy"].value == 0.5
    assert found["accuracy"].stderr == pytest.approx(0.5), "the standard deviation of 0 and 1, by the root of 2"
    assert [metric.lower_is_better for metric in metrics] == [True, False]


def test_errors_of_regression_are_minimized() -> None:
    sums = {"loss": np.ones(3), "weight": np.ones(3), "targets": np.ones(3)}
    sums |= {"squared_error": np.array([1.0, 4.0, 1.0]), "absolute_error": np.array([1.0, 2.0, 1.0])}
    metrics = metrics_of_sums(load_task("regression"), sums)
    found = Evaluation(["a", "b", "c"], ["a", "b", "c"], metrics).estimates()
    assert found["mse"].value == 2 and found["mae"].value == pytest.approx(4 / 3)
    assert all(metric.lower_is_better for metric in metrics)


@pytest.mark.slow
def test_metrics_of_all_units_are_those_of_scikit_learn() -> None:
    units, labels = classified(200)
    logits = np.concatenate([each.outputs for each in units])
    found = metrics_of_all(load_task("sequence_classification"), units, [str(i) for i in range(200)])
    assert found["auroc"].value == pytest.approx(roc_auc_score(labels, logits[:, 1] - logits[:, 0]), abs=1e-12)
    assert found["f1_macro"].value == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"), abs=1e-12)
    for estimate in found.values():
        assert estimate.low is not None and estimate.high is not None and estimate.n == 200
        assert estimate.low <= estimate.value + 0.1 and estimate.high >= estimate.value - 0.1


@pytest.mark.slow
def test_dependent_items_widen_the_interval() -> None:
    units, _ = classified(40)
    each_thrice = [unit for unit in units for _ in range(3)]
    task = load_task("sequence_classification")
    alone = metrics_of_all(task, each_thrice, [str(i) for i in range(120)])["auroc"].stderr
    grouped = metrics_of_all(task, each_thrice, [str(i // 3) for i in range(120)])["auroc"].stderr
    assert alone is not None and grouped is not None and grouped > 1.4 * alone, "by the root of 3 in expectation"


def test_undefined_metrics_have_no_interval() -> None:
    units = [Units(np.array([[0.1, 0.2]]), np.array([[1.0]]))] * 5
    found = metrics_of_all(load_task("sequence_classification"), units, list("abcde"))
    assert np.isnan(found["auroc"].value) and found["auroc"].stderr is None and RESAMPLES > 100
    assert metrics_of_all(load_task("preference"), units, list("abcde")) == {}
