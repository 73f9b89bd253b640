"""Standard errors, paired differences and p-values against statsmodels and closed forms."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import binom, norm
from statsmodels.stats.contingency_tables import mcnemar as exact_mcnemar
from statsmodels.stats.power import NormalIndPower

from distft.evaluate.metrics import verdict
from distft.evaluate.statistics import (
    cluster_numbers,
    estimate,
    items_needed,
    mcnemar,
    mean,
    paired,
    permutation,
    resampled,
)


def counts_of(scores: np.ndarray) -> np.ndarray:
    return np.stack([scores, np.ones(len(scores))], 1)


def clustered(scores: np.ndarray, clusters: np.ndarray) -> Any:
    """Returns statsmodels' mean of the scores, with its standard error by cluster."""
    fitted = sm.OLS(scores, np.ones(len(scores))).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    return fitted


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of two models on 60 items in 17 clusters of unequal sizes, with an effect of the cluster."""
    random = np.random.default_rng(1)
    clusters = np.sort(np.concatenate([np.arange(17), random.integers(0, 17, 43)]))
    shared = random.normal(size=17)[clusters]
    ours = shared + random.normal(size=60) + 0.3
    return ours, 0.5 * shared + random.normal(size=60), clusters


def test_a_mean_has_the_clustered_error_of_statsmodels(data: Any) -> None:
    ours, _, clusters = data
    found, expected = estimate(counts_of(ours), mean, clusters), clustered(ours, clusters)
    assert found.value == pytest.approx(expected.params[0], abs=1e-9)
    assert found.stderr == pytest.approx(expected.bse[0], rel=1e-6)
    assert (found.low, found.high) == pytest.approx(tuple(expected.conf_int()[0]), rel=1e-6)
    alone = estimate(counts_of(ours), mean, np.arange(60))
    assert alone.stderr == pytest.approx(ours.std(ddof=1) / np.sqrt(60), rel=1e-9)
    assert found.stderr is not None and alone.stderr is not None and found.stderr > 1.3 * alone.stderr


def test_a_paired_difference_is_that_of_statsmodels(data: Any) -> None:
    ours, theirs, clusters = data
    found = paired(counts_of(ours), counts_of(theirs), mean, clusters, is_binary=False)
    expected = clustered(ours - theirs, clusters)
    assert found.difference == pytest.approx(expected.params[0], abs=1e-9)
    assert found.stderr == pytest.approx(expected.bse[0], rel=1e-6)
    assert (found.low, found.high) == pytest.approx(tuple(expected.conf_int()[0]), rel=1e-6)
    assert found.clusters == 17 and found.test == "permutation"


def test_a_ratio_has_the_error_of_the_closed_form(data: Any) -> None:
    ours, _, clusters = data
    targets = np.random.default_rng(2).integers(1, 9, 60).astype(float)
    found = estimate(np.stack([ours, targets], 1), mean, clusters)
    residual = np.bincount(clusters, ours - ours.sum() / targets.sum() * targets)  # of the ratio estimator, by cluster
    expected = np.sqrt(17 / 16 * np.square(residual).sum()) / targets.sum()
    assert found.stderr == pytest.approx(expected, rel=1e-6)
    logarithm = estimate(np.stack([ours, targets], 1), lambda sums: np.exp(mean(sums)), clusters)
    assert logarithm.stderr == pytest.approx(expected * np.exp(found.value), rel=1e-6)


@pytest.mark.parametrize("table", [(3, 12), (12, 3), (0, 5), (1, 0), (40, 61)])
def test_mcnemar_is_the_exact_test_less_half_of_a_point(table: tuple[int, int]) -> None:
    left, right = table
    ours = np.array([1.0] * left + [0.0] * right + [1.0, 0.0] * 5)
    theirs = np.array([0.0] * left + [1.0] * right + [1.0, 0.0] * 5)
    found: Any = exact_mcnemar([[5, left], [right, 5]], exact=True)
    assert mcnemar(ours, theirs) == pytest.approx(found.pvalue - binom.pmf(min(table), sum(table), 0.5), abs=1e-9)
    assert mcnemar(ours, ours) == 1.0


def test_a_permutation_p_is_that_of_all_exchanges() -> None:
    random = np.random.default_rng(3)
    ours, theirs = random.normal(0.6, 1, 9), random.normal(size=9)
    signed = [abs(np.mean(np.array(signs) * (ours - theirs))) for signs in product((1, -1), repeat=9)]
    expected = np.mean([each >= abs(np.mean(ours - theirs)) - 1e-12 for each in signed])
    assert permutation(counts_of(ours), counts_of(theirs), mean) == pytest.approx(expected, abs=1e-12)


def test_random_exchanges_agree_with_the_t_test(data: Any) -> None:
    random = np.random.default_rng(4)
    ours, theirs = random.normal(0.25, 1, 200), random.normal(size=200)
    expected = clustered(ours - theirs, np.arange(200)).pvalues[0]
    assert permutation(counts_of(ours), counts_of(theirs), mean) == pytest.approx(expected, abs=0.01)


@pytest.mark.slow
def test_null_pairs_differ_in_about_five_percent() -> None:
    random = np.random.default_rng(5)
    below = {"binary": 0, "loss": 0}
    for _ in range(500):
        easy = random.uniform(size=120)  # both models find the same items easy
        right = [(random.uniform(size=120) < easy).astype(float) for _ in range(2)]
        found = paired(counts_of(right[0]), counts_of(right[1]), mean, np.arange(120), is_binary=True)
        assert found.test == "mcnemar" and found.p is not None
        below["binary"] += found.p < 0.05
        clusters = np.arange(120) // 4
        shared = random.normal(size=(2, 30))[:, clusters]  # of a conversation, another one for each model
        losses = easy + shared + random.normal(size=(2, 120))
        found = paired(counts_of(losses[0]), counts_of(losses[1]), mean, clusters, is_binary=False)
        assert found.p is not None
        below["loss"] += found.p < 0.05
    assert all(0.03 <= count / 500 <= 0.07 for count in below.values()), below


def test_the_items_needed_are_those_of_the_power_formula() -> None:
    needed = items_needed(0.1, stderr=0.08, n=150)
    spread = 0.08 * np.sqrt(150)
    expected = NormalIndPower(ddof=0).solve_power(0.1 / spread, alpha=0.05, power=0.8, ratio=0)
    assert needed == pytest.approx(expected, rel=0.01)
    assert needed == int(np.ceil(((norm.ppf(0.975) + norm.ppf(0.8)) * spread / 0.1) ** 2))
    assert items_needed(0.0, 0.1, 10) is None


def test_one_cluster_gives_no_standard_error() -> None:
    scores = counts_of(np.array([1.0, 0.0, 1.0]))
    found = estimate(scores, mean, np.zeros(3, dtype=int))
    assert found.value == pytest.approx(2 / 3) and found.stderr is None and found.low is None
    difference = paired(scores, scores[::-1], mean, np.zeros(3, dtype=int), is_binary=True)
    assert difference.p is None and not difference.is_shown
    assert cluster_numbers(["b", "a", "b"]).tolist() == [0, 1, 0]


def test_a_verdict_needs_interval_and_p() -> None:
    scores = counts_of(np.arange(20.0))
    lower = paired(scores - np.array([3.0, 0.0]), scores, mean, np.arange(20), is_binary=False)
    same = paired(scores, scores[::-1], mean, np.arange(20), is_binary=False)
    assert lower.difference == pytest.approx(-3) and verdict(True, lower) == "better"  # by 3 in each item
    noisy = scores - np.stack([np.linspace(1, 5, 20), np.zeros(20)], 1)
    found = paired(noisy, scores, mean, np.arange(20), is_binary=False)
    assert verdict(True, found) == "better" and verdict(False, found) == "worse"
    assert verdict(None, found) == "lower"
    assert verdict(True, same) == "no difference shown"
    weak = paired(scores + np.stack([np.tile([9.0, -8.0], 10), np.zeros(20)], 1), scores, mean, np.arange(20), False)
    assert verdict(True, weak).startswith("no difference shown; about 2,") and weak.items_needed


def test_a_bootstrap_of_clusters_has_the_clustered_error(data: Any) -> None:
    ours, theirs, clusters = data
    found = resampled(lambda at: {"m": ours[at].mean()}, lambda at: {"m": theirs[at].mean()}, clusters)["m"]
    expected = paired(counts_of(ours), counts_of(theirs), mean, clusters, is_binary=False)
    assert found.difference == pytest.approx(expected.difference) and found.test == "bootstrap"
    assert found.stderr == pytest.approx(expected.stderr, rel=0.15) and found.p is not None and expected.p is not None
    assert abs(found.p - expected.p) < 0.1
    apart = resampled(lambda at: {"m": ours[at].mean() + 9}, lambda at: {"m": theirs[at].mean()}, clusters)["m"]
    assert apart.is_shown and apart.p is not None and apart.p < 0.01
    undefined = resampled(lambda at: {"m": np.nan}, lambda at: {"m": 0.0}, clusters)["m"]
    assert undefined.p is None and not undefined.is_shown
