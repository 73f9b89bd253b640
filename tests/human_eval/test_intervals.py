"""Intervals and tests equal those of statsmodels, scipy and closed forms; a clustered one accounts for its clusters."""

from itertools import product

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.sandwich_covariance import cov_cluster, cov_cluster_2groups

from distft.evaluate.statistics import holm
from distft.human_eval.intervals import (
    bootstrap,
    clustered,
    clustered_mean,
    group_variance,
    permutation_test,
    sign_test,
    two_way_variance,
    wilson,
)


def votes(seed: int, raters: int = 12, prompts: int = 40, count: int = 200):
    """Scores with rater and prompt effects, and the rater and prompt of each."""
    rng = np.random.default_rng(seed)
    r, p = rng.integers(raters, size=count), rng.integers(prompts, size=count)
    eta = 0.4 + rng.normal(0, 0.6, raters)[r] + rng.normal(0, 0.8, prompts)[p]
    scores = np.where(rng.random(count) < 0.2, 0.5, rng.random(count) < 1 / (1 + np.exp(-eta)))
    return scores.astype(np.float64), r, p


@pytest.mark.parametrize(("wins", "n"), [(0, 5), (5, 5), (13, 20), (57, 100), (502, 1000), (1, 1)])
def test_wilson_is_that_of_statsmodels(wins: int, n: int):
    found = wilson(wins, n)
    assert (found.low, found.high) == pytest.approx(proportion_confint(wins, n, method="wilson"), abs=1e-9)
    assert found.value == wins / n


@pytest.mark.parametrize("seed", range(5))
def test_one_way_variance_is_the_cluster_sandwich(seed: int):
    scores, raters, _ = votes(seed)
    fit = sm.OLS(scores, np.ones(len(scores))).fit()
    count = len(np.unique(raters))
    expected = cov_cluster(fit, raters, use_correction=False)[0, 0] * count / (count - 1)
    assert group_variance(scores - scores.mean(), raters) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_two_way_variance_is_that_of_statsmodels(seed: int):
    scores, raters, prompts = votes(seed)
    fit = sm.OLS(scores, np.ones(len(scores))).fit()
    _, by_rater, by_prompt = cov_cluster_2groups(fit, raters, prompts, use_correction=False)
    cells = np.unique(raters * 1000 + prompts, return_inverse=True)[1]
    both = cov_cluster(fit, cells, use_correction=False)

    def corrected(variance: np.ndarray, groups: np.ndarray) -> float:
        count = len(np.unique(groups))
        return float(np.asarray(variance).item()) * count / (count - 1)

    expected = corrected(by_rater, raters) + corrected(by_prompt, prompts) - corrected(both, cells)
    variance, freedom = two_way_variance(scores - scores.mean(), raters, prompts)
    assert variance == pytest.approx(expected, rel=1e-6) and freedom == 11


def test_the_interval_is_on_the_logit_scale():
    scores, raters, prompts = votes(1)
    found = clustered(scores, raters, prompts)
    assert found is not None
    logits = [np.log(x / (1 - x)) for x in (found.low, found.value, found.high)]
    assert logits[1] - logits[0] == pytest.approx(logits[2] - logits[1])
    width = stats.t.ppf(0.975, 11) * found.stderr / (found.value * (1 - found.value))
    assert logits[2] - logits[1] == pytest.approx(width)
    assert "t with 11 degrees of freedom" in found.method


def test_few_clusters_or_equal_votes_have_an_honest_interval():
    ones = np.ones(6)
    assert clustered(ones, np.zeros(6, int), np.zeros(6, int)) is None
    one_rater = clustered(np.array([1, 1, 0, 1, 0, 1.0]), np.zeros(6, int), np.arange(6))
    assert one_rater is not None and "5 degrees" in one_rater.method
    unanimous = clustered(ones, np.arange(6) % 2, np.arange(6) // 2)
    assert unanimous is not None and unanimous.high == 1 and unanimous.low == pytest.approx(wilson(3, 3).low)
    assert clustered_mean(np.array([1.0, 2]), np.zeros(2, int), np.zeros(2, int)) is None


def test_the_bootstrap_agrees_with_the_sandwich():
    scores, raters, prompts = votes(3)
    rng = np.random.default_rng(0)
    for groups, variance in (([raters], group_variance(scores - scores.mean(), raters)),
                             ([prompts], group_variance(scores - scores.mean(), prompts))):  # fmt: skip
        found = bootstrap(scores, groups, rng)
        assert found is not None and found.stderr == pytest.approx(np.sqrt(variance), rel=0.12)
    both = bootstrap(scores, [raters, prompts], rng)
    assert both is not None and both.stderr > np.sqrt(two_way_variance(scores - scores.mean(), raters, prompts)[0])
    assert bootstrap(scores, [np.zeros(len(scores), int)], rng) is None


@pytest.mark.slow
def test_sign_test_and_holm_are_the_known_ones():
    assert sign_test(13, 7) == pytest.approx(stats.binomtest(13, 20).pvalue, abs=1e-12) and sign_test(0, 0) == 1
    for p_values in ([0.01, 0.04, 0.03], [0.5], [0.2, 0.001, 0.9, 0.02, 0.02]):
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)


def test_the_permutation_test_counts_every_exchange():
    rng = np.random.default_rng(0)
    scores, prompts = np.array([1, 1, 0.5, 0, 1, 1, 1, 0.0]), np.array([0, 0, 1, 2, 3, 4, 5, 5])
    sums = np.bincount(prompts, scores - 0.5)
    exact = np.mean([abs(np.dot(signs, sums)) >= abs(sums.sum()) - 1e-9 for signs in product([-1, 1], repeat=6)])
    assert permutation_test(scores, prompts, rng) == pytest.approx(exact, abs=1e-12)
    assert permutation_test(np.array([0.5, 0.5]), np.array([0, 1]), rng) == 1
    many, _, by_prompt = votes(5)
    sampled = permutation_test(many, by_prompt, rng)
    assert sampled == pytest.approx(permutation_test(many, by_prompt, rng), abs=0.02)
