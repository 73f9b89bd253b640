"""Seconds are told by phase, once."""

import time

import torch

from distft.train.clock import Clock


def test_phases_add_up_and_are_told_once() -> None:
    clock = Clock(torch.device("cpu"))
    for name, seconds in (("forward", 0.02), ("backward", 0.01), ("forward", 0.02)):
        with clock.phase(name):
            time.sleep(seconds)
    told = clock.take()
    assert set(told) == {"forward", "backward"}
    assert told["forward"] >= 0.04 and told["backward"] >= 0.01
    assert clock.take() == {}
