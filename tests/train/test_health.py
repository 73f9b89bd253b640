"""When a run stops, skips or rewinds on NaN/Inf, and what counts as a spike.

A straggler is found by the compute seconds of all ranks: slow in most of the last steps, beyond its share of the work.
A run that waits for its rows gets one warning, with a fix.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distft.runtime.errors import NonFinite
from distft.runtime.heartbeat import WORK
from distft.runtime.process_group import World
from distft.train.health import (
    STEPS,
    WAIT_STEPS,
    DataWait,
    MemoryPressure,
    NonFinitePolicy,
    Spikes,
    Stragglers,
    Warnings,
    rank_stats,
)
from tests.support.ranks import run_ranks


def after(policy: NonFinitePolicy, *skipped: bool) -> list[str]:
    return [policy.after(step, is_skipped, "FILE") for step, is_skipped in enumerate(skipped, start=1)]


def test_stop_ends_the_run_at_the_first_non_finite_step():
    with pytest.raises(NonFinite, match=r"step 2 is not finite; no weight was changed. What it read: FILE .*=stop"):
        after(NonFinitePolicy("stop"), False, True)


def test_skip_counts_consecutive_steps():
    assert after(NonFinitePolicy("skip", 3), *[True, True, False] * 5) == ["go_on"] * 15
    with pytest.raises(NonFinite, match=r"step 4 .*number 3 in a row \(train.max_non_finite\)"):
        after(NonFinitePolicy("skip", 3), False, True, True, True)


def test_rewind_counts_all_non_finite_steps():
    policy = NonFinitePolicy("rewind", 2)
    assert after(policy, True, False, True) == ["rewind", "go_on", "rewind"]
    with pytest.raises(NonFinite, match=r"gone back 2 times"):
        after(policy, False, True)


@pytest.mark.slow
def test_no_false_alarm_in_10000_noisy_falling_losses_and_norms():
    random = np.random.default_rng(0)
    steps = np.arange(10_000)
    losses = 1 + 3 * np.exp(-steps / 2000) + random.normal(0, 0.08, len(steps))
    norms = np.exp(random.normal(0, 0.35, len(steps)))  # some three times the usual
    warnings = Warnings()
    reported = [
        warnings.of(int(i), loss, norm, False) for i, (loss, norm) in enumerate(zip(losses, norms, strict=True))
    ]
    assert sum(map(len, reported)) <= 1, [each for each in reported if each]


@pytest.mark.parametrize("at", [40, 500])
def test_a_loss_spike_is_reported_at_once_and_again(at: int):
    random = np.random.default_rng(1)
    spikes = Spikes()
    reported = [
        step for step in range(600) if spikes.see(random.normal(2, 0.05) + 3 * (step in (at, at + 1))) is not None
    ]
    assert reported == [at, at + 1]


def test_flat_curves_and_first_values_raise_no_alarm():
    spikes = Spikes()
    assert all(spikes.see(2 + 1e-7 * (step % 7) + 0.02 * (step % 50 == 0)) is None for step in range(300))
    assert all(Spikes().see(value) is None for value in (1.0, 50.0, 2.0))
    assert spikes.see(math.nan) is None and spikes.see(math.inf) is None


def test_a_skipped_step_is_reported_and_not_in_the_median():
    warnings = Warnings()
    assert warnings.of(1, math.nan, math.inf, True) == ["step 1 was skipped: loss nan, gradient norm inf"]
    assert not warnings.loss.recent


def test_a_gradient_norm_is_judged_by_its_ratio():
    warnings, random = Warnings(), np.random.default_rng(2)
    for step in range(100):
        assert not warnings.of(step, 2.0, float(np.exp(random.normal(0, 0.2))), False)
    [reported] = warnings.of(100, 2.0, 100.0, False)
    assert reported.startswith("gradient norm of step 100 is 100, ") and " deviations above " in reported


def test_a_restart_keeps_the_statistics():
    random = np.random.default_rng(3)
    rows = [{"loss": float(2 + random.normal(0, 0.05)), "grad_norm": 1.0} for _ in range(200)]
    straight, again = Warnings(), Warnings()
    for step, row in enumerate(rows):
        straight.of(step, row["loss"], row["grad_norm"], False)
    again.recall([*rows[:50], {"loss": math.nan, "grad_norm": math.nan, "skipped": True}, *rows[50:]])
    assert again.loss == straight.loss and again.grad_norm == straight.grad_norm
    assert again.of(200, 9.0, 1.0, False) == straight.of(200, 9.0, 1.0, False) != []


@pytest.mark.parametrize("at", [150, 400])
def test_a_spike_of_a_falling_loss_is_reported(at: int):
    random = np.random.default_rng(4)
    losses = 10 * np.exp(-np.arange(500) / 40) + 1 + random.normal(0, 0.05, 500)
    losses[at] += 4
    spikes = Spikes()
    assert [step for step, loss in enumerate(losses) if spikes.see(float(loss)) is not None] == [at]


@pytest.mark.slow
def test_a_tenfold_learning_rate_is_reported_within_two_steps(rows: Path):
    raised = 201
    reported = run_ranks(1, "tests.train.raised_rate", str(rows), str(raised))
    assert min(map(int, reported)) in (raised + 1, raised + 2), reported


USUAL = {"data": 0.001, "forward": 0.1, "backward": 0.2, "optimizer": 0.05}


def step(world: int, costs: Sequence[float] = (), **slow: float) -> list[float]:
    """Returns the statistics of all ranks for a step; slow: factors on the last rank's seconds."""
    reported = np.zeros((world, len(WORK) + 1))
    for rank in range(world):
        times = slow if rank == world - 1 else {}
        seconds = [USUAL[phase] * times.get(phase, 1.0) for phase in WORK]
        own = World(rank, world, 0, 1, torch.device("cpu"))
        reported += np.reshape(rank_stats(seconds, costs[rank] if costs else 5.0, own), reported.shape)
    return reported.ravel().tolist()


def stragglers(world: int) -> Stragglers:
    return Stragglers([f"n{rank}" for rank in range(world)])


def said(world: int, steps: Sequence[list[float]]) -> list[tuple[int, str]]:
    """Returns what is said of steps, each with its number, from 1."""
    names = stragglers(world)
    return [(number, text) for number, reported in enumerate(steps, 1) for text in names.of(reported)]


@pytest.mark.parametrize("world", [2, 3, 4, 64])
@pytest.mark.parametrize("phase", ["forward", "backward", "optimizer"])
def test_a_straggler_is_named_once_with_host_and_phase(phase: str, world: int):
    [(number, text)] = said(world, [step(world)] * 10 + [step(world, **{phase: 2.0})] * 100)
    assert 10 < number <= 30
    seconds = f"{2 * USUAL[phase]:.3g} s"
    last = world - 1
    assert text.startswith(f"rank {last} on n{last} is slow in {phase}: ") and "in 12 of the last 16 steps" in text
    assert text.count("usual are") == 1 and seconds >= text.partition(": ")[2].partition(" a step")[0]


def test_a_straggler_that_recovers_can_be_named_again():
    slow, fast = [step(2, backward=2.0)] * 20, [step(2)] * 30
    assert [number for number, _ in said(2, [*slow, *fast, *slow])] == [15, 62]


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([step(4, forward=1.3, backward=1.3)] * 100, "less than 1 / 0.7 as long"),
        ([step(4, data=9.0)] * 100, "what hardly costs anything may take many times as long"),
        (([step(4, forward=3.0)] * 2 + [step(4)]) * 100, "2 of 3 steps are too few"),
        ([step(4)] * 3 + ([step(4, forward=3.0)] * 11 + [step(4)] * 5) * 10, "11 of 16 as well"),
        ([step(4, forward=50.0)] + [step(4)] * 100, "one step, however long"),
        ([step(4, costs=(1, 1, 1, 2), forward=2.0, backward=2.0)] * 100, "twice the work takes twice as long"),
        ([step(2, costs=(3, 1), forward=0.5, backward=0.5)] * 100, "less work is no reason to blame the other"),
        ([step(1, forward=9.0)] * 100, "nobody waits for a rank that is alone"),
        ([[0.0] * 20] * 100, "without measurements no straggler is reported"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_straggler_is_named_without_a_reason(steps: list[list[float]], why: str):
    assert said(len(steps[0]) // 5, steps) == [], why


def test_a_rank_with_more_work_is_judged_by_its_work():
    reported = step(4, costs=(1, 1, 1, 1.2), forward=2.4, backward=2.4)
    assert [number for number, _ in said(4, [reported] * 100)] == [15]
    assert STEPS < 20


def row(waited: float, seconds: float = 1.0) -> dict[str, Any]:
    return {"seconds": seconds, "phases": {"data": waited, "forward": seconds - waited}}


def test_data_wait_over_5_percent_is_reported_once_per_episode():
    wait = DataWait()
    reported = [bool(wait.of(row(0.06))) for _ in range(3 * WAIT_STEPS)]
    assert reported.index(True) == WAIT_STEPS - 1 and sum(reported) == 1
    assert not any(wait.of(row(0.0)) for _ in range(WAIT_STEPS))
    [text] = [each for _ in range(WAIT_STEPS) for each in wait.of(row(0.2))]
    assert "of the last 50 steps waited for rows. Try: launcher.stage=node_local" in text


def test_short_waits_and_a_single_long_one_are_not_reported():
    wait = DataWait()
    assert not any(wait.of(row(0.049)) for _ in range(4 * WAIT_STEPS))
    assert not any(wait.of(row(0.9 if step == 70 else 0.0)) for step in range(4 * WAIT_STEPS))


def test_data_wait_is_judged_by_seconds_not_steps():
    """Many short steps that wait, and a few long ones that do not."""
    wait = DataWait()
    assert not any(wait.of(row(0.5, 1.0) if step % 10 else row(0.0, 200.0)) for step in range(4 * WAIT_STEPS))


def test_a_step_without_a_measured_wait_counts_as_none():
    wait = DataWait()
    assert not any(wait.of({"seconds": 1.0, "phases": {}}) for _ in range(2 * WAIT_STEPS))


def test_allocator_retries_warn_first_and_when_doubled() -> None:
    pressure = MemoryPressure()
    counts = [0, 0, 1, 1, 2, 3, 4, 4]
    warned = [bool(pressure.of({"allocator_retries": count})) for count in counts]
    assert warned == [False, False, True, False, True, False, True, False]
    assert pressure.of({}) == [], "a CPU has no such count"
