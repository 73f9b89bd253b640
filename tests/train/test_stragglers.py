"""A rank is named by a rule over the seconds of all: slow in most of the last steps, beyond its share of the work."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from distft.runtime.heartbeat import WORK
from distft.runtime.process_group import World
from distft.train.health import STEPS, Stragglers, rank_stats

USUAL = {"data": 0.001, "forward": 0.1, "backward": 0.2, "optimizer": 0.05}


def step(world: int, costs: Sequence[float] = (), **slow: float) -> list[float]:
    """Returns what all ranks tell of a step; slow: the last rank's seconds in a phase, as a multiple of the usual."""
    told = np.zeros((world, len(WORK) + 1))
    for rank in range(world):
        times = slow if rank == world - 1 else {}
        seconds = [USUAL[phase] * times.get(phase, 1.0) for phase in WORK]
        own = World(rank, world, 0, 1, torch.device("cpu"))
        told += np.reshape(rank_stats(seconds, costs[rank] if costs else 5.0, own), told.shape)
    return told.ravel().tolist()


def stragglers(world: int) -> Stragglers:
    return Stragglers([f"n{rank}" for rank in range(world)])


def said(world: int, steps: Sequence[list[float]]) -> list[tuple[int, str]]:
    """Returns what is said of steps, each with its number, from 1."""
    names = stragglers(world)
    return [(number, text) for number, told in enumerate(steps, 1) for text in names.of(told)]


@pytest.mark.parametrize("world", [2, 3, 4, 64])
@pytest.mark.parametrize("phase", ["forward", "backward", "optimizer"])
def test_a_rank_that_takes_twice_as_long_is_named_once_with_its_host_and_phase(phase: str, world: int):
    [(number, text)] = said(world, [step(world)] * 10 + [step(world, **{phase: 2.0})] * 100)
    assert 10 < number <= 30
    seconds = f"{2 * USUAL[phase]:.3g} s"
    last = world - 1
    assert text.startswith(f"rank {last} on n{last} is slow in {phase}: ") and "in 12 of the last 16 steps" in text
    assert text.count("usual are") == 1 and seconds >= text.partition(": ")[2].partition(" a step")[0]


def test_one_that_recovers_and_is_slow_again_is_named_again():
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
        ([[0.0] * 20] * 100, "ranks that nobody watches tell nothing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nobody_is_named_without_a_reason(steps: list[list[float]], why: str):
    assert said(len(steps[0]) // 5, steps) == [], why


def test_a_rank_with_more_work_is_named_when_it_is_slow_beyond_that():
    told = step(4, costs=(1, 1, 1, 1.2), forward=2.4, backward=2.4)
    assert [number for number, _ in said(4, [told] * 100)] == [15]
    assert STEPS < 20
