"""Regions: the elements of a tensor that a shard holds, and the copy from one sharding to another.

A region is a flat row-major range or an n-d box. Either can be split into boxes, and boxes can be intersected.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Box:
    """Elements offsets[i] to offsets[i] + sizes[i] of each dim i; the data is row-major within the box."""

    offsets: Shape
    sizes: Shape

    @property
    def count(self) -> int:
        return prod(self.sizes)

    @property
    def is_first(self) -> bool:
        """Whether it contains the tensor's first element."""
        return self.count > 0 and not any(self.offsets)

    def cut(self, shape: Shape, first: int, count: int) -> Iterator[tuple[int, "Box"]]:
        """Yields (position in the data, box of the tensor) for the data's elements first to first + count."""
        for at, inner in Flat(first, count).cut(self.sizes, 0, count):
            yield at, Box(tuple(a + b for a, b in zip(self.offsets, inner.offsets, strict=True)), inner.sizes)

    def common(self, other: "Box") -> "Box | None":
        """Returns the intersection; None where it is empty."""
        offsets = tuple(map(max, self.offsets, other.offsets))
        stops = [
            min(a + n, b + m) for a, n, b, m in zip(self.offsets, self.sizes, other.offsets, other.sizes, strict=True)
        ]
        sizes = tuple(stop - offset for stop, offset in zip(stops, offsets, strict=True))
        return Box(offsets, sizes) if all(size > 0 for size in sizes) else None

    def view(self, data: torch.Tensor, within: "Box") -> torch.Tensor:
        """Returns a view of the elements of `within` in `data`, the flat data of this box."""
        places = [slice(a - b, a - b + n) for a, b, n in zip(within.offsets, self.offsets, within.sizes, strict=True)]
        return data.view(self.sizes)[tuple(places)]


@dataclass(frozen=True)
class Flat:
    """Elements start to start + count, row-major."""

    start: int
    count: int

    @property
    def is_first(self) -> bool:
        """Whether it contains the tensor's first element."""
        return self.count > 0 and self.start == 0

    def cut(self, shape: Shape, first: int, count: int) -> Iterator[tuple[int, Box]]:
        """Yields (position in the data, box of the tensor) for the data's elements first to first + count."""
        yield from _boxes(0, self.start + first, count, shape)


Region = Flat | Box


def _boxes(at: int, start: int, count: int, shape: Shape) -> Iterator[tuple[int, Box]]:
    """Yields a flat range as at most two boxes per dim plus one: a partial row, whole rows, a partial row."""
    if count == 0:
        return
    if len(shape) <= 1:
        yield at, Box((start,), (count,)) if shape else Box((), ())
        return
    row = prod(shape[1:])
    index, within = divmod(start, row)
    if within or count < row:
        head = min(count, row - within)
        for place, box in _boxes(at, within, head, shape[1:]):
            yield place, Box((index, *box.offsets), (1, *box.sizes))
        yield from _boxes(at + head, start + head, count - head, shape)
        return
    rows = count // row
    yield at, Box((index, *(0,) * (len(shape) - 1)), (rows, *shape[1:]))
    yield from _boxes(at + rows * row, start + rows * row, count % row, shape)


def copy(
    source: torch.Tensor, boxes: Sequence[tuple[int, Box]], target: torch.Tensor, region: Region, shape: Shape
) -> int:
    """Copies the elements that `source` shares with `target`, the flat data of `region`; returns their number.

    boxes: (position in `source`, box of the tensor) for all of `source`. Converts dtype and device.
    """
    copied = 0
    for to, wanted in region.cut(shape, 0, region.count):
        for at, given in boxes:
            common = wanted.common(given)
            if common is not None:
                filled = wanted.view(target[to : to + wanted.count], common)
                filled.copy_(given.view(source[at : at + given.count], common))
                copied += common.count
    return copied
