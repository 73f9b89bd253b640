"""When a run stops, goes on or goes back over numbers that are none, and what counts as a spike."""

import math
from pathlib import Path

import numpy as np
import pytest

from distft.runtime.errors import NonFinite
from distft.train.health import NonFinitePolicy, Spikes, Warnings
from tests.support.ranks import run_ranks


def after(policy: NonFinitePolicy, *skipped: bool) -> list[str]:
    return [policy.after(step, is_skipped, "FILE") for step, is_skipped in enumerate(skipped, start=1)]


def test_stop_ends_the_run_at_the_first():
    with pytest.raises(NonFinite, match=r"step 2 is not finite; no weight was changed. What it read: FILE .*=stop"):
        after(NonFinitePolicy("stop"), False, True)


def test_skip_counts_steps_in_a_row():
    assert after(NonFinitePolicy("skip", 3), *[True, True, False] * 5) == ["go_on"] * 15
    with pytest.raises(NonFinite, match=r"step 4 .*number 3 in a row \(train.max_non_finite\)"):
        after(NonFinitePolicy("skip", 3), False, True, True, True)


def test_rewind_counts_all_of_them():
    policy = NonFinitePolicy("rewind", 2)
    assert after(policy, True, False, True) == ["rewind", "go_on", "rewind"]
    with pytest.raises(NonFinite, match=r"gone back 2 times"):
        after(policy, False, True)


def test_no_false_alarm_in_10000_noisy_falling_losses_and_norms():
    random = np.random.default_rng(0)
    steps = np.arange(10_000)
    losses = 1 + 3 * np.exp(-steps / 2000) + random.normal(0, 0.08, len(steps))
    norms = np.exp(random.normal(0, 0.35, len(steps)))  # some three times the usual
    warnings = Warnings()
    told = [warnings.of(int(i), loss, norm, False) for i, (loss, norm) in enumerate(zip(losses, norms, strict=True))]
    assert sum(map(len, told)) <= 1, [each for each in told if each]


@pytest.mark.parametrize("at", [40, 500])
def test_a_loss_that_jumps_is_told_at_once_and_the_next_one_too(at: int):
    random = np.random.default_rng(1)
    spikes = Spikes()
    told = [step for step in range(600) if spikes.see(random.normal(2, 0.05) + 3 * (step in (at, at + 1))) is not None]
    assert told == [at, at + 1]


def test_a_curve_that_hardly_moves_and_the_first_values_raise_no_alarm():
    spikes = Spikes()
    assert all(spikes.see(2 + 1e-7 * (step % 7) + 0.02 * (step % 50 == 0)) is None for step in range(300))
    assert all(Spikes().see(value) is None for value in (1.0, 50.0, 2.0))
    assert spikes.see(math.nan) is None and spikes.see(math.inf) is None


def test_a_step_that_was_not_taken_is_told_and_spoils_no_median():
    warnings = Warnings()
    assert warnings.of(1, math.nan, math.inf, True) == ["step 1 was skipped: loss nan, gradient norm inf"]
    assert not warnings.loss.recent


def test_a_gradient_norm_is_judged_by_its_ratio():
    warnings, random = Warnings(), np.random.default_rng(2)
    for step in range(100):
        assert not warnings.of(step, 2.0, float(np.exp(random.normal(0, 0.2))), False)
    [told] = warnings.of(100, 2.0, 100.0, False)
    assert told.startswith("gradient norm of step 100 is 100, ") and " deviations above " in told


def test_a_restart_forgets_nothing_of_what_is_usual():
    random = np.random.default_rng(3)
    rows = [{"loss": float(2 + random.normal(0, 0.05)), "grad_norm": 1.0} for _ in range(200)]
    straight, again = Warnings(), Warnings()
    for step, row in enumerate(rows):
        straight.of(step, row["loss"], row["grad_norm"], False)
    again.recall([*rows[:50], {"loss": math.nan, "grad_norm": math.nan, "skipped": True}, *rows[50:]])
    assert again.loss == straight.loss and again.grad_norm == straight.grad_norm
    assert again.of(200, 9.0, 1.0, False) == straight.of(200, 9.0, 1.0, False) != []


@pytest.mark.parametrize("at", [150, 400])
def test_a_spike_of_a_loss_that_still_falls_is_told(at: int):
    random = np.random.default_rng(4)
    losses = 10 * np.exp(-np.arange(500) / 40) + 1 + random.normal(0, 0.05, 500)
    losses[at] += 4
    spikes = Spikes()
    assert [step for step, loss in enumerate(losses) if spikes.see(float(loss)) is not None] == [at]


@pytest.mark.slow
def test_a_learning_rate_ten_times_too_high_is_told_within_two_steps(rows: Path):
    raised = 201
    told = run_ranks(1, "tests.train.raised_rate", str(rows), str(raised))
    assert min(map(int, told)) in (raised + 1, raised + 2), told
