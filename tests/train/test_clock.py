"""Seconds are told by phase, once; those of an accelerator when it has done the work, and without waiting for it."""

import time

import pytest
import torch
from torch import nn

from distft.runtime.heartbeat import WORK
from distft.runtime.process_group import World
from distft.train.health import Stragglers, told_of
from distft.train.timing import Clock, OwnWork
from tests.support.accelerator import CUDA_1, Device, stand_in


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return stand_in(monkeypatch)


def test_phases_add_up_and_are_told_once() -> None:
    clock = Clock(torch.device("cpu"))
    for name, seconds in (("forward", 0.02), ("backward", 0.01), ("forward", 0.02)):
        with clock.phase(name):
            time.sleep(seconds)
    told = clock.take()
    assert set(told) == {"forward", "backward"}
    assert told["forward"] >= 0.04 and told["backward"] >= 0.01
    assert clock.take() == {}


def test_work_that_a_device_has_not_done_is_told_by_the_next_reading(device: Device) -> None:
    clock = Clock(CUDA_1)
    with clock.phase("forward"):
        device.launch(20)
    device.finish()
    with clock.phase("optimizer"):
        device.launch(7)
    assert clock.take() == {"forward": 0.02}
    assert clock.take() == {}
    device.finish()
    assert clock.take() == {"optimizer": 0.007}


def test_a_device_tells_its_own_forwards_in_the_next_step(device: Device) -> None:
    """Not those of an evaluation, nor the ones that backward makes again."""
    clock, block = Clock(CUDA_1), nn.Linear(2, 2)
    block.register_forward_pre_hook(lambda *_: device.launch(100))  # waits for its weights, as a strategy's hook does
    block.register_forward_hook(lambda *_: device.launch(1000))  # frees them again
    own = OwnWork([block], clock)
    real = block.forward

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        device.launch(3)
        return real(hidden)

    block.forward = forward
    told = []
    for cost in (5.0, 7.0, 9.0):
        with clock.phase("forward"):
            block(torch.ones(2))
            block(torch.ones(2))
        with clock.phase("backward"):
            block(torch.ones(2))
        told.append(own.of_step(cost))
        device.finish()
        block(torch.ones(2))
    own.close()
    forward_at = WORK.index("forward")
    assert [(seconds[forward_at], cost) for seconds, cost in told] == [(0.0, 0.0), (0.006, 5.0), (0.006, 7.0)]
    with clock.phase("forward"):
        block(torch.ones(2))
    assert own.of_step(1.0) == ([0.0, 0.006, 0.0, 0.0], 9.0), "its hooks are gone"


def test_a_rank_with_a_slow_device_is_named_though_its_host_is_as_fast(device: Device) -> None:
    world, clocks = 2, [Clock(CUDA_1) for _ in range(2)]
    blocks = [nn.Identity(), nn.Identity()]
    owns = [OwnWork([block], clock) for block, clock in zip(blocks, clocks, strict=True)]
    for rank, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda *_, rank=rank: device.launch(10 * (1 + rank)))
    names, said = Stragglers(["a", "b"]), []
    for _ in range(20):
        told = torch.zeros(world * (len(WORK) + 1))
        for rank, (own, clock) in enumerate(zip(owns, clocks, strict=True)):
            with clock.phase("forward"):
                blocks[rank](torch.ones(2))
            told += torch.tensor(told_of(*own.of_step(5.0), World(rank, world, rank, world, CUDA_1)))
        device.finish()
        said += names.of(told.tolist())
    [text] = said
    assert text.startswith("rank 1 on b is slow in forward: 0.02 s")
