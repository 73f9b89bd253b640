"""Bytes are taken apart where they go: what a device keeps is converted there, what the host keeps is not sent."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distft.runtime.process_group import World
from distft.tensors import streaming as module
from distft.tensors.regions import Flat

CUDA = torch.device("cuda", 1)


def part(count: int, device: str) -> Any:
    return SimpleNamespace(region=Flat(0, count), data=lambda: SimpleNamespace(device=torch.device(device)))


@pytest.mark.parametrize(
    ("parts", "home"),
    [
        ([("cuda:1", 100)], "cuda:1"),
        ([("cuda:1", 100), ("cpu", 1)], "cuda:1"),  # a state that is one number
        ([("cpu", 100), ("cuda:1", 10)], "cpu"),  # offload
        ([], "cpu"),
    ],
)
def test_a_block_is_taken_apart_where_most_of_it_stays(parts: list[tuple[str, int]], home: str) -> None:
    world = World(1, 2, 1, 2, CUDA)
    assert module._staging_device([part(count, device) for device, count in parts], world) == torch.device(home)
