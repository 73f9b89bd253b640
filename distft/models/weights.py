"""Newly made weights flow into an engine piece by piece, from whatever source answers `read`."""

from collections.abc import Iterable
from math import prod
from typing import Protocol

import torch

from distft.models.stream import Part
from distft.runtime.regions import Box, Flat, copy


class WeightSource(Protocol):
    """Anything that holds named tensors."""

    def read(self, name: str, shape: tuple[int, ...], start: int, count: int) -> torch.Tensor: ...


MAX_READ = 2**24  # elements in flight: 64 MiB of fp32


def fill(parts: Iterable[Part], source: WeightSource) -> None:
    """Copies every part's elements from `source`, at most MAX_READ of a flat range at a time."""
    for part in parts:
        name, target = part.key[1], part.data()
        if isinstance(part.region, Box):
            count = prod(part.shape)
            whole = source.read(name, part.shape, 0, count)
            copy(whole, list(Flat(0, count).cut(part.shape, 0, count)), target, part.region, part.shape)
            continue
        for at in range(0, part.region.count, MAX_READ):
            count = min(MAX_READ, part.region.count - at)
            target[at : at + count].copy_(source.read(name, part.shape, part.region.start + at, count))
