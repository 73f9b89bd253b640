"""Weights and checkpoints flow from files into all processes: every byte is read once, in order, in large requests.

A file comes in blocks. A block that one process needs is read by that process; a block that several need is read by
one of them in turn, ahead of time, and sent to all. So 512 processes on a shared filesystem ask it for each byte once,
and none holds more than a few blocks at a time.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist

from distft.models.stored import Stored, read_bytes
from distft.runtime.process_group import World, all_reduce_sum
from distft.runtime.regions import Box, Region, Shape, copy

BLOCK = 32 * 2**20  # bytes
Key = tuple[str, str]  # what of a parameter (its weights, an optimizer's state), and which parameter


@dataclass(frozen=True)
class Chunk:
    """Elements of a tensor as they are stored."""

    key: Key
    shape: Shape  # of the whole tensor
    region: Region
    stored: Stored


class Part(Protocol):
    """Elements of a tensor that this process keeps, and where."""

    @property
    def key(self) -> Key: ...
    @property
    def shape(self) -> Shape: ...
    @property
    def region(self) -> Region: ...
    def data(self) -> torch.Tensor: ...


@dataclass(frozen=True)
class Cut:
    """Elements of a chunk that lie in one block."""

    chunk: Chunk
    first: int
    count: int
    byte: int  # of the first one in the block

    def boxes(self) -> list[tuple[int, Box]]:
        return list(self.chunk.region.cut(self.chunk.shape, self.first, self.count))


@dataclass(frozen=True)
class Block:
    """Bytes of a file, at most BLOCK."""

    file: Path
    start: int
    count: int
    cuts: list[Cut]


@torch.no_grad()
def stream(chunks: Iterable[Chunk], parts: Sequence[Part], world: World) -> None:
    """Fills the parts of every process; all call it with the same chunks in the same order.

    RuntimeError when a part is not there as a whole, or its tensor has another shape.
    """
    chunks = list(chunks)
    wanted: dict[Key, list[Part]] = defaultdict(list)
    for part in parts:
        wanted[part.key].append(part)
    _check(chunks, wanted)
    blocks = list(_blocks(chunks))
    needed = [_is_needed(block, wanted) for block in blocks]
    needers = all_reduce_sum(torch.tensor(needed, dtype=torch.int32, device=world.device)).tolist()
    shared = [block for block, count in zip(blocks, needers, strict=True) if count > 1]
    own = [block for block, count, mine in zip(blocks, needers, needed, strict=True) if count == 1 and mine]
    filled: Counter[int] = Counter()
    with ThreadPoolExecutor(1) as pool:
        ahead = _read_ahead([*shared[world.rank :: world.size], *own], pool)
        received = torch.empty(max((block.count for block in shared), default=0), dtype=torch.uint8)
        received = received.to(world.device)
        for i, block in enumerate(shared):
            reader = i % world.size
            content = received[: block.count]
            if reader == world.rank:
                content.copy_(next(ahead))
            dist.broadcast(content, reader)
            _take(block, content, wanted, filled)
        for block, content in zip(own, ahead, strict=True):
            _take(block, content, wanted, filled)
    for part in parts:
        if filled[id(part)] != part.region.count:
            missing = part.region.count - filled[id(part)]
            where = chunks[0].stored.file.parent
            raise RuntimeError(f"{where} lacks {missing} elements of {part.key[0]} {part.key[1]}")


def _check(chunks: list[Chunk], wanted: dict[Key, list[Part]]) -> None:
    where = chunks[0].stored.file.parent if chunks else "an empty folder"
    stored = {chunk.key: chunk.shape for chunk in chunks}
    for (slot, name), [part, *_] in wanted.items():
        shape = stored.get((slot, name))
        if shape is None:
            raise RuntimeError(f"{where} has no {slot} {name}")
        if shape != part.shape:
            raise RuntimeError(f"{where}: {slot} {name} is {list(shape)}, the model wants {list(part.shape)}")


def _blocks(chunks: Iterable[Chunk]) -> Iterator[Block]:
    """Yields the files' blocks in order; a border between two lies between two elements."""
    by_file: dict[Path, list[Chunk]] = defaultdict(list)
    for chunk in chunks:
        if chunk.region.count:
            by_file[chunk.stored.file].append(chunk)
    for file in sorted(by_file):
        cuts: list[Cut] = []
        start = stop = 0
        for chunk in sorted(by_file[file], key=lambda chunk: chunk.stored.first_byte):
            first, size = 0, chunk.stored.dtype.itemsize
            while first < chunk.region.count:
                at = chunk.stored.first_byte + first * size
                if not cuts:
                    start = at
                count = min(chunk.region.count - first, (start + BLOCK - at) // size)
                if count > 0:
                    cuts.append(Cut(chunk, first, count, at - start))
                    first, stop = first + count, at + count * size
                else:
                    yield Block(file, start, stop - start, cuts)
                    cuts = []
        if cuts:
            yield Block(file, start, stop - start, cuts)


def _is_needed(block: Block, wanted: dict[Key, list[Part]]) -> bool:
    return any(
        given.common(box)
        for cut in block.cuts
        for part in wanted.get(cut.chunk.key, ())
        for _, given in cut.boxes()
        for _, box in part.region.cut(part.shape, 0, part.region.count)
    )


def _read_ahead(blocks: list[Block], pool: ThreadPoolExecutor) -> Iterator[torch.Tensor]:
    """Yields the bytes of each block while the next one is being read; each stays valid until the next but one."""
    size = max((block.count for block in blocks), default=0)
    buffers = [torch.empty(size, dtype=torch.uint8) for _ in blocks[:3]]
    reads: list[Callable[[], torch.Tensor]] = []
    for i, block in enumerate(blocks):
        reads.append(pool.submit(read_bytes, block.file, block.start, block.count, buffers[i % len(buffers)]).result)
        if i > 0:
            yield reads[i - 1]()
    if reads:
        yield reads[-1]()


def _take(block: Block, content: torch.Tensor, wanted: dict[Key, list[Part]], filled: Counter[int]) -> None:
    for cut in block.cuts:
        parts = wanted.get(cut.chunk.key)
        if parts:
            size = cut.chunk.stored.dtype.itemsize
            raw = content[cut.byte : cut.byte + cut.count * size]
            source = (raw if cut.byte % size == 0 else raw.clone()).view(cut.chunk.stored.dtype)
            boxes = cut.boxes()
            for part in parts:
                filled[id(part)] += copy(source, boxes, part.data(), part.region, part.shape)
