"""The order of the settings, and how sure it is, are what a hand computes."""

import math
import random

import pytest

from distft.report.sweep.settings import compare, of_mean, rank, settings_of
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


def test_the_interval_covers_the_truth_as_often_as_it_says():
    chance = random.Random(0)
    samples = [of_mean([chance.gauss(2, 0.1) for _ in range(3)]) for _ in range(4000)]
    covered = sum(interval.low <= 2 <= interval.high for interval in samples if interval) / len(samples)
    assert 0.94 < covered < 0.96
