"""A schedule is a pure function of the step, ends at its end value, and has the rates of transformers."""

from itertools import pairwise

import pytest
import torch

from distft.optim.schedules import Factor, constant, cosine, linear, wsd


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
def test_warm_up_rises_to_1_and_the_last_step_has_the_end_value(factor, last: float) -> None:
    assert [factor(step) for step in (1, 5, 10)] == pytest.approx([0.1, 0.5, 1.0])
    assert factor(100) == pytest.approx(last)
    after = [factor(step) for step in range(10, 101)]
    assert after == sorted(after, reverse=True)


def rates_of_transformers(name: str, total: int, warm: int, **settings: float) -> list[float]:
    """Returns the factor of each of its steps and of the one after them."""
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_scheduler(name, optimizer, warm, total, settings)
    rates = []
    for _ in range(total + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("warm", [0, 1, 7])
@pytest.mark.parametrize(
    ("make", "name", "settings"),
    [
        (lambda total, warm: constant(total, warm), "constant_with_warmup", {}),
        (lambda total, warm: linear(total, warm), "linear", {}),
        (lambda total, warm: cosine(total, warm, final_fraction=0.1), "cosine_with_min_lr", {"min_lr_rate": 0.1}),
        (
            lambda total, warm: wsd(total, warm, decay_steps=0.1),
            "warmup_stable_decay",
            {"num_decay_steps": 4, "decay_type": "linear"},
        ),
    ],
    ids=["constant", "linear", "cosine", "wsd"],
)
def test_rates_are_those_of_transformers_one_step_later(make, name: str, settings, warm: int) -> None:
    """There the first step of a warm-up has none, and the end value comes after the last step."""
    theirs = rates_of_transformers(name, 40, warm, **settings)
    ours = [make(40, warm)(step) for step in range(1, 41)]
    assert ours == pytest.approx(theirs[1:], abs=1e-12)
    assert ours[0] > 0 and theirs[0] == (0 if warm else 1)


def test_cosine_is_half_way_down_in_the_middle() -> None:
    assert cosine(110, 10, final_fraction=0.0)(60) == pytest.approx(0.5)


def test_wsd_decays_over_the_last_tenth_by_default() -> None:
    factor = wsd(100, 10, decay_steps=20)
    assert factor(80) == 1.0 and factor(90) == pytest.approx(0.5)
    factor = wsd(100, 10)
    assert factor(90) == 1.0 and factor(95) == pytest.approx(0.5) and factor(100) == 0.0
    assert wsd(100, 10, decay_steps=0)(100) == 1.0, "a run frozen so goes on so"


@pytest.mark.parametrize(
    ("share", "total", "steps"), [(0.1, 30, 3), (0.1, 31, 4), (0.03, 100, 3), (0.5, 1, 1), (0.0, 9, 0)]
)
def test_fractional_steps_are_rounded_up(share: float, total: int, steps: int) -> None:
    """As transformers' warm-up of less than one step."""
    for step in range(1, total + 1):
        assert linear(total, share)(step) == linear(total, steps)(step)


@pytest.mark.parametrize("make", [constant, linear, cosine, wsd], ids=lambda make: make.__name__)
@pytest.mark.parametrize("warm", [0, 0.1, 1, 3, 10])
@pytest.mark.parametrize("total", range(1, 12))
def test_rates_are_in_bounds_for_any_length(make, warm: float, total: int) -> None:
    factor: Factor = make(total, warm)
    rates = [factor(step) for step in range(1, total + 1)]
    assert all(0 <= rate <= 1 for rate in rates) and rates[0] > 0
    falls = [after < before for before, after in pairwise(rates)]
    assert falls == sorted(falls), "it rises, stays and falls, each at most once"


def test_a_run_of_one_step_has_the_full_rate() -> None:
    for make in (constant, linear, cosine, wsd):
        assert make(1)(1) == 1.0 and make(1, 0.1)(1) == 1.0


def test_a_run_shorter_than_its_warm_up_is_still_defined() -> None:
    assert cosine(3, 10)(3) == pytest.approx(0.3)
