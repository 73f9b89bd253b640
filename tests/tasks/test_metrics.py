"""Metrics are those of scikit-learn and scipy; calibration error is held to its definition by hand."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from distft.tasks.metrics import calibration_error, of_classes, of_several_classes, of_values, ranked, softmax

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_metrics_of_one_class_are_scikit_learns(classes: int) -> None:
    labels = RANDOM.integers(0, classes, 200)
    outputs = np.round(RANDOM.normal(size=(200, classes)) + np.eye(classes)[labels], 1)  # rounded: ties
    mine, guess, shares = of_classes(outputs, labels), outputs.argmax(1), softmax(outputs)
    assert mine["f1_macro"] == pytest.approx(metrics.f1_score(labels, guess, average="macro"))
    assert mine["f1_micro"] == pytest.approx(metrics.f1_score(labels, guess, average="micro"))
    score = shares[:, 1] if classes == 2 else shares
    assert mine["auroc"] == pytest.approx(metrics.roc_auc_score(labels, score, multi_class="ovr"))


def test_metrics_of_several_classes_are_scikit_learns() -> None:
    labels = RANDOM.integers(0, 2, (150, 4))
    outputs = np.round(RANDOM.normal(size=(150, 4)) + labels, 1)
    mine, guess = of_several_classes(outputs, labels), outputs >= 0
    for average in ("macro", "micro"):
        assert mine[f"f1_{average}"] == pytest.approx(metrics.f1_score(labels, guess, average=average))
    assert mine["auroc"] == pytest.approx(metrics.roc_auc_score(labels, outputs, average="macro"))


def test_metrics_of_values_are_scipys() -> None:
    labels = np.round(RANDOM.normal(size=(120, 2)), 1)
    outputs = np.round(labels + RANDOM.normal(size=(120, 2)), 1)
    mine = of_values(outputs, labels)
    assert mine["r2"] == pytest.approx(metrics.r2_score(labels, outputs))
    for name, function in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        expected = np.mean([function(outputs[:, i], labels[:, i]).statistic for i in range(2)])
        assert mine[name] == pytest.approx(expected)


def test_ties_share_the_mean_of_their_ranks() -> None:
    values = RANDOM.integers(0, 9, 50)
    assert ranked(values).tolist() == stats.rankdata(values).tolist()


def test_calibration_error_is_the_gap_of_each_bin() -> None:
    confidence = np.array([0.9, 0.92, 0.3, 0.31])  # bins of 1/15: (13/15, 14/15] and (4/15, 5/15]
    expected = 0.5 * abs(1.0 - 0.91) + 0.5 * abs(0.5 - 0.305)
    assert calibration_error(confidence, np.array([True, True, True, False])) == pytest.approx(expected)
    assert calibration_error(np.array([1.0]), np.array([True])) == 0


def test_what_rows_of_one_class_leave_open_is_undefined() -> None:
    assert np.isnan(of_classes(np.eye(3), np.zeros(3))["auroc"])
    found = of_values(np.zeros((3, 1)), np.ones((3, 1)))
    assert all(np.isnan(value) for value in found.values())
