"""Intervals and corrections against scipy, and the log-odds against the closed form of Monroe et al."""

import math

import numpy as np
import pytest
from scipy import stats

from distft.audit.statistics import (
    benjamini_hochberg,
    bootstrap,
    difference_of_shares,
    log_odds,
    wilson,
)
from distft.evaluate.statistics import holm


@pytest.mark.parametrize("successes,total", [(0, 10), (3, 10), (80, 100), (100, 100), (1, 3000)])
def test_wilson_is_scipys(successes: int, total: int) -> None:
    expected = stats.binomtest(successes, total).proportion_ci(method="wilson")
    assert wilson(successes, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_false_discovery_rates_are_scipys() -> None:
    p = np.random.default_rng(0).random(50) ** 2
    assert benjamini_hochberg(p.tolist()) == pytest.approx(stats.false_discovery_control(p), abs=1e-12)
    assert benjamini_hochberg([]) == []


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_log_odds_is_the_closed_form() -> None:
    found = log_odds((80, 20), (200, 150), 0.1, 50.0)
    a, b, prior = 80 + 5, 20 + 5, 50
    value = math.log(a / (200 + prior - a)) - math.log(b / (150 + prior - b))
    variance = 1 / a + 1 / b + 1 / (200 + prior - a) + 1 / (150 + prior - b)
    assert (found.value, found.z) == pytest.approx((value, value / math.sqrt(variance)))
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(found.z)))
    assert found.interval[0] < found.value < found.interval[1]


def test_newcombe_on_his_own_example() -> None:
    """Newcombe 1998, method 10, 56/70 against 48/80: 0.0524 to 0.3339."""
    assert difference_of_shares((56, 70), (48, 80)) == pytest.approx((0.0524, 0.3339), abs=2e-4)


@pytest.mark.slow
def test_a_bootstrap_interval_covers_the_mean() -> None:
    covered = 0
    for seed in range(60):
        values = np.random.default_rng(seed).normal(1.0, 1.0, 80)
        found = bootstrap(values, seed=seed)
        covered += found.low <= 1.0 <= found.high
    assert covered >= 51  # 95% of 60 is 57
