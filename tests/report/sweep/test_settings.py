"""The ranking of settings and its intervals equal values computed by hand.

The quantile equals the printed tables.
"""

import math
import random

import pytest

from distft.report.sweep.settings import compare, of_mean, quantile, rank, settings_of
from tests.report.sweep.conftest import Run, of_seeds

RATE = ["optimizer.lr", "seed"]


def test_mean_deviation_and_interval_of_three_seeds(make_sweep):
    [setting] = rank(make_sweep(of_seeds(1e-4, 1.0, 1.2, 1.4), RATE))
    assert setting.values == {"optimizer.lr": 1e-4}
    assert (setting.n, setting.mean) == (3, pytest.approx(1.2))
    assert setting.deviation == pytest.approx(0.2)
    half = 4.302653 * 0.2 / math.sqrt(3)
    assert (setting.interval.low, setting.interval.high) == (pytest.approx(1.2 - half), pytest.approx(1.2 + half))


def test_one_seed_has_neither_deviation_nor_interval(make_sweep):
    [setting] = rank(make_sweep(of_seeds(1e-4, 1.0), RATE))
    assert (setting.n, setting.deviation, setting.interval) == (1, None, None)


def test_the_lowest_mean_comes_first_not_the_lowest_run(make_sweep):
    ranking = rank(make_sweep([*of_seeds(1e-3, 0.5, 2.5), *of_seeds(1e-4, 1.3, 1.1)], RATE))
    assert [setting.values["optimizer.lr"] for setting in ranking] == [1e-4, 1e-3]
    assert ranking[0].best.objective == 1.1


def test_shared_seeds_are_compared_in_pairs(make_sweep):
    """Each setting varies by 0.2 over seeds, the difference by 0.017: only pairs show it."""
    best, second = rank(make_sweep([*of_seeds(1e-4, 1.0, 1.2, 1.4), *of_seeds(1e-3, 1.1, 1.3, 1.53)], RATE))
    difference = compare(best, second)
    half = 4.302653 * 0.0173205 / math.sqrt(3)  # of 0.1, 0.1, 0.13
    assert difference.mean == pytest.approx(0.11)
    assert difference.interval.low == pytest.approx(0.11 - half, abs=1e-6)
    assert difference.interval.high == pytest.approx(0.11 + half, abs=1e-6)
    assert difference.is_significant and difference.how == "paired over 3 seeds"
    assert best.interval.high > second.interval.low  # which alone would have hidden it


def test_a_difference_that_changes_its_sign_is_not_significant(make_sweep):
    best, second = rank(make_sweep([*of_seeds(1e-4, 1.0, 1.2, 1.4), *of_seeds(1e-3, 1.1, 1.1, 1.5)], RATE))
    difference = compare(best, second)
    assert difference.interval.low < 0 < difference.interval.high
    assert not difference.is_significant


def test_only_shared_seeds_are_paired(make_sweep):
    best, second = rank(make_sweep([*of_seeds(1e-4, 1.0, 1.2), *of_seeds(1e-3, 1.5, 1.7, 9.0)], RATE))
    difference = compare(best, second)
    assert difference.mean == pytest.approx(0.5)
    assert difference.how == "paired over 2 seeds"


def test_seeds_of_their_own_are_compared_by_welch(make_sweep):
    best, second = rank(make_sweep([*of_seeds(1e-4, 1.0, 3.0), *of_seeds(1e-3, 5.0, 7.0, first=2)], RATE))
    difference = compare(best, second)
    half = 4.302653 * math.sqrt(2)  # variances 2 / 2 each, and so 2 degrees of freedom
    assert (difference.interval.low, difference.interval.high) == (pytest.approx(4 - half), pytest.approx(4 + half))


def test_one_seed_against_one_is_not_known(make_sweep):
    best, second = rank(make_sweep([*of_seeds(1e-4, 1.0), *of_seeds(1e-3, 5.0)], RATE))
    difference = compare(best, second)
    assert (difference.mean, difference.interval, difference.is_significant) == (4.0, None, False)


def test_equal_runs_do_not_differ_significantly(make_sweep):
    best, second = rank(make_sweep([*of_seeds(1e-4, 1.0, 1.0), *of_seeds(1e-3, 1.0, 1.0)], RATE))
    assert not compare(best, second).is_significant


def test_the_same_seed_twice_is_one_observation(make_sweep):
    again = [*of_seeds(1e-4, 1.0), *of_seeds(1e-4, 2.0)]
    [setting] = rank(make_sweep(again, RATE))
    assert (setting.n, setting.mean, setting.interval) == (1, 1.5, None)


@pytest.mark.parametrize("state", ["failed", "running", "preempted"])
def test_unfinished_runs_are_not_ranked_but_cost_process_hours(make_sweep, state: str):
    part = Run({"optimizer.lr": 1e-4, "seed": 2}, losses=(3.0, 0.1), state=state)
    [setting] = rank(make_sweep([*of_seeds(1e-4, 1.0, 1.2), part], RATE))
    assert (setting.n, setting.mean) == (2, pytest.approx(1.1))
    # 4 steps of 9 seconds and 900 tokens on 2 processes, three times
    assert setting.process_hours == pytest.approx(3 * 4 * 9 * 2 / 3600)
    assert setting.tokens == 3 * 4 * 900


def test_a_sweep_over_seeds_alone_is_one_setting(make_sweep):
    sweep = make_sweep([Run({"seed": seed}) for seed in range(3)], ["seed"])
    assert [setting.n for setting in settings_of(sweep)] == [3]


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_it_says():
    chance = random.Random(0)
    samples = [of_mean([chance.gauss(2, 0.1) for _ in range(3)]) for _ in range(4000)]
    covered = sum(interval.low <= 2 <= interval.high for interval in samples if interval) / len(samples)
    assert 0.94 < covered < 0.96


# Two-sided 95 % and 99 %, as tables of Student's distribution print them.
TABLE = [
    (1, 12.706, 63.657), (2, 4.303, 9.925), (3, 3.182, 5.841), (4, 2.776, 4.604), (5, 2.571, 4.032),
    (6, 2.447, 3.707), (7, 2.365, 3.499), (8, 2.306, 3.355), (9, 2.262, 3.250), (10, 2.228, 3.169),
    (15, 2.131, 2.947), (20, 2.086, 2.845), (30, 2.042, 2.750), (60, 2.000, 2.660), (120, 1.980, 2.617),
]  # fmt: skip


@pytest.mark.parametrize("freedom, at_95, at_99", TABLE)
def test_quantiles_are_those_of_the_tables(freedom: int, at_95: float, at_99: float):
    assert round(quantile(0.975, freedom), 3) == at_95
    assert round(quantile(0.995, freedom), 3) == at_99


@pytest.mark.parametrize("probability", [0.5001, 0.6, 0.9, 0.975, 0.995, 0.99999])
def test_one_and_two_degrees_of_freedom_have_a_closed_form(probability: float):
    assert quantile(probability, 1) == pytest.approx(math.tan(math.pi * (probability - 0.5)), rel=1e-9)
    p = 2 * probability - 1
    assert quantile(probability, 2) == pytest.approx(p * math.sqrt(2 / (1 - p * p)), rel=1e-9)


def test_many_degrees_of_freedom_give_the_normal_quantile():
    assert quantile(0.975, 1e7) == pytest.approx(1.959964, abs=1e-6)


def test_quantiles_are_symmetric_and_fall_with_freedom():
    assert quantile(0.025, 4) == pytest.approx(-quantile(0.975, 4), rel=1e-12)
    ordered = [quantile(0.975, freedom) for freedom in (1, 1.5, 2, 2.7, 3, 10, 10.5)]
    assert ordered == sorted(ordered, reverse=True)
