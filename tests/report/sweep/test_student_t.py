"""The quantile is the one of the printed tables."""

import math

import pytest

from distft.report.sweep.settings import quantile

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
