"""Which elements of a tensor some flat data holds, and how they get from one holder to another.

A region is a flat row-major range, or an n-d box. Both come apart into boxes, and two boxes share a box.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Box:
    """Elements offsets[i] .. offsets[i] + sizes[i] along every dimension i; the data is row-major within the box."""

    offsets: Shape
    sizes: Shape

    @property
    def count(self) -> int:
        return prod(self.sizes)

    @property
    def is_first(self) -> bool:
        """Whether the tensor's first element is in it."""
        return self.count > 0 and not any(self.offsets)

    def cut(self, shape: Shape, first: int, count: int) -> Iterator[tuple[int, "Box"]]:
        """Yields the boxes of the tensor that the data's elements first..first+count are, each with its place there."""
        for at, inner in Flat(first, count).cut(self.sizes, 0, count):
            yield at, Box(tuple(a + b for a, b in zip(self.offsets, inner.offsets, strict=True)), inner.sizes)

    def common(self, other: "Box") -> "Box | None":
        """Returns the box of the elements in both."""
        offsets = tuple(map(max, self.offsets, other.offsets))
        stops = [
            min(a + n, b + m) for a, n, b, m in zip(self.offsets, self.sizes, other.offsets, other.sizes, strict=True)
        ]
        sizes = tuple(stop - offset for stop, offset in zip(stops, offsets, strict=True))
        return Box(offsets, sizes) if all(size > 0 for size in sizes) else None

    def view(self, data: torch.Tensor, within: "Box") -> torch.Tensor:
        """Returns the elements of `within` out of this box's own flat data, to read or to fill."""
        places = [slice(a - b, a - b + n) for a, b, n in zip(within.offsets, self.offsets, within.sizes, strict=True)]
        return data.view(self.sizes)[tuple(places)]


@dataclass(frozen=True)
class Flat:
    """Elements start..start+count, row-major."""

    start: int
    count: int

    @property
    def is_first(self) -> bool:
        """Whether the tensor's first element is in it."""
        return self.count > 0 and self.start == 0

    def cut(self, shape: Shape, first: int, count: int) -> Iterator[tuple[int, Box]]:
        """Yields the boxes of the tensor that the data's elements first..first+count are, each with its place there."""
        yield from _boxes(0, self.start + first, count, shape)


Region = Flat | Box


def _boxes(at: int, start: int, count: int, shape: Shape) -> Iterator[tuple[int, Box]]:
    """Yields a range as at most two boxes per dimension and one: a part of a row, whole rows, a part of a row."""
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
    """Fills from `source` what `target`, the flat data of `region`, shares with it; returns the elements copied.

    boxes: what the elements of `source` are, with the place of each in it. Converts dtype and device.
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
