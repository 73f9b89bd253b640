"""Newly made weights flow into an engine piece by piece, from whatever source answers `read`.

A file comes in blocks. A block that one process needs is read by that process; a block that several need is read by
one of them in turn, ahead of time, and sent to all. So 512 processes on a shared filesystem ask it for each byte once,
and none holds more than three blocks: one in use, one being read, one received. Where the files are sealed, whoever
reads a block checks it: what is damaged is known without reading anything twice, but only after parts were filled.
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
from distft.tensors.integrity import BLOCK, Damaged, Seal
from distft.tensors.regions import Box, Flat, Region, Shape, copy
from distft.tensors.safetensors import Stored, read_bytes, read_headers, tensors_of
from distft.tensors.weight_files import weight_files

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
    """Bytes of a file, at most BLOCK; in a sealed file the `number`th block of its data."""

    file: Path
    number: int
    start: int
    count: int
    cuts: list[Cut]


@torch.no_grad()
def stream(
    chunks: Iterable[Chunk], parts: Sequence[Part], world: World, seals: Mapping[Path, Seal] | None = None
) -> None:
    """Fills the parts of every process; all call it with the same chunks in the same order.

    Damaged on every process when one could not read a block, or a sealed file is not what was written: blocks that no
    part needs are checked too. RuntimeError when a part is not there as a whole, or its tensor has another shape.
    """
    chunks, seals = list(chunks), seals or {}
    wanted: dict[Key, list[Part]] = defaultdict(list)
    for part in parts:
        wanted[part.key].append(part)
    _check(chunks, wanted)
    shared, own = _share(list(_blocks(chunks)), wanted, seals, world)
    filled: Counter[int] = Counter()
    damaged: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        home = _home(parts, world)
        is_pinned = world.device.type != "cpu"
        ahead = _read_ahead([*shared[world.rank :: world.size], *own], seals, pool, damaged, is_pinned)
        received = torch.empty(max((block.count for block in shared), default=0), dtype=torch.uint8)
        received = received.to(world.device)
        for i, block in enumerate(shared):
            reader = i % world.size
            content = next(ahead).to(world.device) if reader == world.rank else received[: block.count]
            dist.broadcast(content, reader)
            _take(block, content, wanted, filled)
        for block, content in zip(own, ahead, strict=True):
            heartbeat.beat()  # the broadcasts of shared blocks beat by themselves
            _take(block, content.to(home), wanted, filled)
    for reason in texts_of_all(damaged[0] if damaged else "", world):
        if reason:
            raise Damaged(reason)
    for part in parts:
        if filled[id(part)] != part.region.count:
            missing = part.region.count - filled[id(part)]
            where = chunks[0].stored.file.parent
            raise RuntimeError(f"{where} lacks {missing} elements of {part.key[0]} {part.key[1]}")


def _home(parts: Sequence[Part], world: World) -> torch.device:
    """Returns where a block is taken apart: where most parts are, so that bytes travel as they are stored, half of
    them in bf16, and are converted there."""
    on_device = sum(part.region.count for part in parts if part.data().device.type != "cpu")
    return world.device if 2 * on_device > sum(part.region.count for part in parts) else torch.device("cpu")


def _share(
    blocks: list[Block], wanted: dict[Key, list[Part]], seals: Mapping[Path, Seal], world: World
) -> tuple[list[Block], list[Block]]:
    """Returns the blocks that several processes need, the same list on each, and those that this one alone reads."""
    needed = [_is_needed(block, wanted) for block in blocks]
    needers = all_reduce_sum(torch.tensor(needed, dtype=torch.int32, device=world.device)).tolist()
    shared = [block for block, count in zip(blocks, needers, strict=True) if count > 1]
    checked = [count == 0 and block.file in seals for block, count in zip(blocks, needers, strict=True)]
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
    """Yields the files' blocks in order; a border between two lies between two elements."""
    by_file: dict[Path, list[Chunk]] = defaultdict(list)
    for chunk in chunks:
        if chunk.region.count:
            by_file[chunk.stored.file].append(chunk)
    for file in sorted(by_file):
        cuts: list[Cut] = []
        number = start = stop = 0
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
                    yield Block(file, number, start, stop - start, cuts)
                    number, cuts = number + 1, []
        if cuts:
            yield Block(file, number, start, stop - start, cuts)


def _is_needed(block: Block, wanted: dict[Key, list[Part]]) -> bool:
    return any(
        given.common(box)
        for cut in block.cuts
        for part in wanted.get(cut.chunk.key, ())
        for _, given in cut.boxes()
        for _, box in part.region.cut(part.shape, 0, part.region.count)
    )


def _read_ahead(
    blocks: list[Block], seals: Mapping[Path, Seal], pool: ThreadPoolExecutor, damaged: list[str], is_pinned: bool
) -> Iterator[torch.Tensor]:
    """Yields the bytes of each block while the next one is being read; each stays valid until the next is asked for.

    A block that cannot be read, or is not what was written, goes on as it is, so that no process waits in vain; the
    reason is put into `damaged`.
    """
    size = max((block.count for block in blocks), default=0)
    buffers = [torch.empty(size, dtype=torch.uint8, pin_memory=is_pinned) for _ in blocks[:2]]

    def read(block: Block, into: torch.Tensor) -> torch.Tensor:
        try:
            read_bytes(block.file, block.start, block.count, into)
            if seal := seals.get(block.file):
                seal.check_block(block.file, block.number, into.numpy().data)
        except (Damaged, OSError) as error:
            damaged.append(str(error))
        return into

    reads: list[Future[torch.Tensor]] = []
    for i, block in enumerate(blocks):
        reads.append(pool.submit(read, block, buffers[i % 2][: block.count]))  # i - 2, the last there, is done with
        if i > 0:
            yield reads[i - 1].result()
    if reads:
        yield reads[-1].result()


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


def folder_chunks(folder: Path, world: World, model: PreTrainedModel | None = None) -> list[Chunk]:
    """Returns every tensor as one chunk, of `model` those that are parameters of it, under its names.

    RuntimeError names a damaged file. Every process calls this.
    """
    headers = read_headers(folder, weight_files(folder) if world.is_first else [], world)
    if not headers:
        raise RuntimeError(f"{folder} holds no safetensors file")
    stored = [name for header in headers.values() for name in header["tensors"]]
    names = names_in_model(model, stored) if model else {name: name for name in stored}
    for header in headers.values():  # what is no parameter may be of any dtype
        header["tensors"] = {name: entry for name, entry in header["tensors"].items() if name in names}
    return [
        Chunk(("parameter", names[name]), stored.shape, Flat(0, stored.count), stored)
        for file, header in headers.items()
        for name, stored in tensors_of(folder / file, header).items()
    ]


def names_in_model(model: PreTrainedModel, stored: Iterable[str]) -> dict[str, str]:
    """Returns the names of stored tensors that are parameters of the model, and its own names for them.

    A parameter comes once: by its own name, where it is stored so, before all others.
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
