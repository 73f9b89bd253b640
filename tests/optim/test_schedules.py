"""A schedule is a pure function of the step; the last step has its end value."""

import pytest

from distft.optim.schedules import constant, cosine, linear, wsd


@pytest.mark.parametrize(
    ("factor", "last"),
    [
        (constant(100, 10), 1.0),
        (linear(100, 10, final_fraction=0.2), 0.2),
        (cosine(100, 10, final_fraction=0.1), 0.1),
        (wsd(100, 10, decay_steps=20, final_fraction=0.05), 0.05),
    ],
    ids=["constant", "linear", "cosine", "wsd"],
)
def test_warm_up_rises_to_one_and_the_last_step_has_the_end_value(factor, last: float) -> None:
    assert [factor(step) for step in (1, 5, 10)] == pytest.approx([0.1, 0.5, 1.0])
    assert factor(100) == pytest.approx(last)
    after = [factor(step) for step in range(10, 101)]
    assert after == sorted(after, reverse=True)


def test_cosine_is_half_way_down_in_the_middle() -> None:
    assert cosine(110, 10, final_fraction=0.0)(60) == pytest.approx(0.5)


def test_wsd_is_stable_until_the_decay() -> None:
    factor = wsd(100, 10, decay_steps=20)
    assert factor(80) == 1.0 and factor(90) == pytest.approx(0.5)


def test_a_run_shorter_than_its_warm_up_is_still_defined() -> None:
    assert cosine(3, 10)(3) == pytest.approx(0.3)
