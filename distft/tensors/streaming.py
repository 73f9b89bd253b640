"""Weight streaming: fills the shards of every rank from files, or from newly initialized weights.

Files are read in blocks. A block that one rank needs is read by that rank. A block that several ranks need is read
ahead by one of them, in turn, and broadcast. So 512 ranks read each byte of a shared filesystem once, and no rank holds
more than three blocks: one in use, one being read, one received.

Trap: the reader of a block verifies its checksum, so nothing is read twice, but corruption is detected only after some
parts were filled.
Trap: a file may name a weight differently from the model: without the base model's prefix, or by an old name. Of a tied
pair it may contain either.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from distft.compat.transformers import renaming
from distft.runtime import heartbeat
from distft.runtime.process_group import World, all_reduce_sum, texts_of_all
from distft.tensors.integrity import BLOCK, Checksums, Damaged
from distft.tensors.regions import Box, Flat, Region, Shape, copy
from distft.tensors.safetensors import Stored, read_bytes, read_headers, tensors_of
from distft.tensors.weight_files import weight_files

Key = tuple[str, str]  # (kind, such as parameter or an optimizer state; parameter name)


@dataclass(frozen=True)
class Chunk:
    """Elements of a tensor as stored in a file."""

    key: Key
    shape: Shape  # of the whole tensor
    region: Region
    stored: Stored


class Part(Protocol):
    """Elements of a tensor that this rank holds: a shard to fill."""

    @property
    def key(self) -> Key: ...
    @property
    def shape(self) -> Shape: ...
    @property
    def region(self) -> Region: ...
    def data(self) -> torch.Tensor: ...


class Whole:
    """All elements of a tensor, as a part to fill: fp32 on `device`."""

    def __init__(self, key: Key, shape: Shape, device: torch.device) -> None:
        self.key, self.shape, self.region = key, shape, Flat(0, prod(shape))
        self.tensor = torch.empty(shape, device=device)

    def data(self) -> torch.Tensor:
        return self.tensor.view(-1)


@dataclass(frozen=True)
class ChunkSlice:
    """The elements of a chunk that lie in one block."""

    chunk: Chunk
    first: int
    count: int
    byte: int  # of the first element, within the block

    def boxes(self) -> list[tuple[int, Box]]:
        return list(self.chunk.region.cut(self.chunk.shape, self.first, self.count))


@dataclass(frozen=True)
class Block:
    """At most BLOCK bytes of a file; `number` indexes its checksums."""

    file: Path
    number: int
    start: int
    count: int
    slices: list[ChunkSlice]


@torch.no_grad()
def stream(
    chunks: Iterable[Chunk], parts: Sequence[Part], world: World, checksums: Mapping[Path, Checksums] | None = None
) -> None:
    """Fills the parts of every rank; all ranks call it with the same chunks in the same order.

    checksums: of files to verify; blocks that no part needs are verified too.
    Raises Damaged on every rank when one could not read or verify a block, and RuntimeError when a part is incomplete
    or its tensor has another shape.
    """
    chunks, checksums = list(chunks), checksums or {}
    wanted: dict[Key, list[Part]] = defaultdict(list)
    for part in parts:
        wanted[part.key].append(part)
    _check(chunks, wanted)
    shared, own = _assign_reads(list(_blocks(chunks)), wanted, checksums, world)
    filled: Counter[int] = Counter()
    damaged: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        staging = _staging_device(parts, world)
        is_pinned = world.device.type != "cpu"
        ahead = _read_ahead([*shared[world.rank :: world.size], *own], checksums, pool, damaged, is_pinned)
        received = torch.empty(max((block.count for block in shared), default=0), dtype=torch.uint8)
        received = received.to(world.device)
        for i, block in enumerate(shared):
            reader = i % world.size
            content = next(ahead).to(world.device) if reader == world.rank else received[: block.count]
            dist.broadcast(content, reader)
            _scatter(block, content, wanted, filled)
        for block, content in zip(own, ahead, strict=True):
            heartbeat.beat()  # the broadcasts of shared blocks send heartbeats
            _scatter(block, content.to(staging), wanted, filled)
    for reason in texts_of_all(damaged[0] if damaged else "", world):
        if reason:
            raise Damaged(reason)
    for part in parts:
        if filled[id(part)] != part.region.count:
            missing = part.region.count - filled[id(part)]
            where = chunks[0].stored.file.parent
            raise RuntimeError(f"{where} lacks {missing} elements of {part.key[0]} {part.key[1]}")


def _staging_device(parts: Sequence[Part], world: World) -> torch.device:
    """Returns the device where most parts are: blocks are moved there in their stored dtype, then cast and copied."""
    on_device = sum(part.region.count for part in parts if part.data().device.type != "cpu")
    return world.device if 2 * on_device > sum(part.region.count for part in parts) else torch.device("cpu")


def _assign_reads(
    blocks: list[Block], wanted: dict[Key, list[Part]], checksums: Mapping[Path, Checksums], world: World
) -> tuple[list[Block], list[Block]]:
    """Returns the blocks that several ranks need (the same list on each), and those that this rank alone reads."""
    needed = [_is_needed(block, wanted) for block in blocks]
    needers = all_reduce_sum(torch.tensor(needed, dtype=torch.int32, device=world.device)).tolist()
    shared = [block for block, count in zip(blocks, needers, strict=True) if count > 1]
    checked = [count == 0 and block.file in checksums for block, count in zip(blocks, needers, strict=True)]
    own = [
        block
        for i, block in enumerate(blocks)
        if (needers[i] == 1 and needed[i]) or (checked[i] and i % world.size == world.rank)
    ]
    return shared, own


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
    """Yields the files' blocks in order; a block boundary never splits an element."""
    by_file: dict[Path, list[Chunk]] = defaultdict(list)
    for chunk in chunks:
        if chunk.region.count:
            by_file[chunk.stored.file].append(chunk)
    for file in sorted(by_file):
        slices: list[ChunkSlice] = []
        number = start = stop = 0
        for chunk in sorted(by_file[file], key=lambda chunk: chunk.stored.first_byte):
            first, size = 0, chunk.stored.dtype.itemsize
            while first < chunk.region.count:
                at = chunk.stored.first_byte + first * size
                if not slices:
                    start = at
                count = min(chunk.region.count - first, (start + BLOCK - at) // size)
                if count > 0:
                    slices.append(ChunkSlice(chunk, first, count, at - start))
                    first, stop = first + count, at + count * size
                else:
                    yield Block(file, number, start, stop - start, slices)
                    number, slices = number + 1, []
        if slices:
            yield Block(file, number, start, stop - start, slices)


def _is_needed(block: Block, wanted: dict[Key, list[Part]]) -> bool:
    return any(
        given.common(box)
        for cut in block.slices
        for part in wanted.get(cut.chunk.key, ())
        for _, given in cut.boxes()
        for _, box in part.region.cut(part.shape, 0, part.region.count)
    )


def _read_ahead(
    blocks: list[Block],
    checksums: Mapping[Path, Checksums],
    pool: ThreadPoolExecutor,
    damaged: list[str],
    is_pinned: bool,
) -> Iterator[torch.Tensor]:
    """Yields the bytes of each block while the next is being read; a block is valid until the next one is requested.

    An unreadable or corrupt block is yielded anyway, so that no rank blocks in a collective; the reason is appended to
    `damaged`.
    """
    size = max((block.count for block in blocks), default=0)
    buffers = [torch.empty(size, dtype=torch.uint8, pin_memory=is_pinned) for _ in blocks[:2]]

    def read(block: Block, into: torch.Tensor) -> torch.Tensor:
        try:
            read_bytes(block.file, block.start, block.count, into)
            if expected := checksums.get(block.file):
                expected.check_block(block.file, block.number, into.numpy().data)
        except (Damaged, OSError) as error:
            damaged.append(str(error))
        return into

    reads: list[Future[torch.Tensor]] = []
    for i, block in enumerate(blocks):
        reads.append(pool.submit(read, block, buffers[i % 2][: block.count]))  # block i - 2 is done
        if i > 0:
            yield reads[i - 1].result()
    if reads:
        yield reads[-1].result()


def _scatter(block: Block, content: torch.Tensor, wanted: dict[Key, list[Part]], filled: Counter[int]) -> None:
    for cut in block.slices:
        parts = wanted.get(cut.chunk.key)
        if parts:
            size = cut.chunk.stored.dtype.itemsize
            raw = content[cut.byte : cut.byte + cut.count * size]
            source = (raw if cut.byte % size == 0 else raw.clone()).view(cut.chunk.stored.dtype)
            boxes = cut.boxes()
            for part in parts:
                filled[id(part)] += copy(source, boxes, part.data(), part.region, part.shape)


class WeightSource(Protocol):
    """A source of named tensors."""

    def read(self, name: str, shape: tuple[int, ...], start: int, count: int) -> torch.Tensor: ...


MAX_READ = 2**24  # elements per read: 64 MiB of fp32


def fill(parts: Iterable[Part], source: WeightSource) -> None:
    """Copies the elements of every part from `source`, at most MAX_READ of a flat range at a time."""
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


def folder_chunks(folder: Path, world: World, model: PreTrainedModel | None = None) -> list[Chunk]:
    """Returns each tensor of a folder as one chunk; with `model`, only its parameters, under the model's names.

    A collective. Raises RuntimeError for a corrupt file, or a folder without safetensors files.
    """
    headers = read_headers(folder, weight_files(folder) if world.is_first else [], world)
    if not headers:
        raise RuntimeError(f"{folder} holds no safetensors file")
    stored = [name for header in headers.values() for name in header["tensors"]]
    names = names_in_model(model, stored) if model else {name: name for name in stored}
    for header in headers.values():  # other tensors may have any dtype
        header["tensors"] = {name: entry for name, entry in header["tensors"].items() if name in names}
    return [
        Chunk(("parameter", names[name]), stored.shape, Flat(0, stored.count), stored)
        for file, header in headers.items()
        for name, stored in tensors_of(folder / file, header).items()
    ]


def names_in_model(model: PreTrainedModel, stored: Iterable[str]) -> dict[str, str]:
    """Returns stored name -> model name of the stored tensors that are parameters of the model.

    Each parameter occurs once; a tensor with the model's own name takes precedence.
    """
    stored = list(stored)
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    own = {name: first[id(parameter)] for name, parameter in model.named_parameters(remove_duplicate=False)}
    found = {name: name for name in stored if own.get(name) == name}
    missing, renamed = set(first.values()) - set(found.values()), renaming(model)
    for name in stored if missing else ():
        target = own.get(name if name in own else renamed(name) or "")
        if target in missing:
            found[name] = target
            missing.remove(target)
    return found
