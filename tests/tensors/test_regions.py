"""Any two regions of a tensor exchange exactly their intersection."""

import random
from math import prod

import pytest
import torch

from distft.tensors.regions import Box, Flat, Region, copy


def some_region(shape: tuple[int, ...]) -> Region:
    if random.random() < 0.5:
        start = random.randrange(prod(shape))
        return Flat(start, random.randint(1, prod(shape) - start))
    offsets = tuple(random.randrange(size) for size in shape)
    return Box(offsets, tuple(random.randint(1, size - offset) for size, offset in zip(shape, offsets, strict=True)))


def elements(region: Region, shape: tuple[int, ...]) -> torch.Tensor:
    """Returns the numbers of the region's elements, in the order of its data."""
    numbers = torch.arange(prod(shape)).view(shape)
    if isinstance(region, Flat):
        return numbers.reshape(-1)[region.start : region.start + region.count]
    places = tuple(slice(o, o + n) for o, n in zip(region.offsets, region.sizes, strict=True))
    return numbers[places].reshape(-1)


@pytest.mark.parametrize("shape", [(), (7,), (4, 6), (3, 4, 5), (2, 1, 3, 4)])
def test_only_the_intersection_is_copied(shape: tuple[int, ...]) -> None:
    random.seed(str(shape))
    for _ in range(200):
        source, target = some_region(shape), some_region(shape)
        given, wanted = elements(source, shape), elements(target, shape)
        first = random.randrange(source.count)
        count = random.randint(1, source.count - first)
        part = given[first : first + count]
        filled = torch.full((target.count,), -1.0)
        copied = copy(part.double(), list(source.cut(shape, first, count)), filled, target, shape)
        common = torch.isin(wanted, part)
        assert copied == common.sum()
        assert torch.equal(filled, torch.where(common, wanted, -1).float())


def test_only_the_region_with_element_zero_is_first() -> None:
    assert Flat(0, 3).is_first and Box((0, 0), (2, 1)).is_first
    assert not Flat(1, 3).is_first and not Box((0, 1), (2, 1)).is_first and not Flat(0, 0).is_first
