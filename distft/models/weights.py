"""Weights flow into an engine piece by piece, from whatever source answers `read`."""

from collections.abc import Iterable
from typing import Protocol

import torch


class WeightSource(Protocol):
    """Anything that holds named tensors: a model's folder, a checkpoint, a random instance."""

    def read(self, name: str, shape: tuple[int, ...], start: int, count: int) -> torch.Tensor: ...


class Part(Protocol):
    """The part of a parameter that a process keeps."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def start(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def owner(self) -> torch.Tensor: ...
    def of(self, tensor: torch.Tensor) -> torch.Tensor: ...


MAX_READ = 2**24  # elements in flight: 64 MiB of fp32


def fill(parts: Iterable[Part], source: WeightSource) -> None:
    """Copies every part's elements from `source`, at most MAX_READ at a time."""
    for part in parts:
        target = part.of(part.owner)
        for at in range(0, part.count, MAX_READ):
            count = min(MAX_READ, part.count - at)
            target[at : at + count].copy_(source.read(part.name, part.shape, part.start + at, count))
