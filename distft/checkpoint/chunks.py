"""The chunks of a checkpoint: names, which elements each holds, and the files they are written to."""

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from distft.runtime import heartbeat
from distft.strategies.engine import Engine, Piece
from distft.strategies.fsdp import pieces_of
from distft.tensors.integrity import Sealing, hash_of
from distft.tensors.regions import Box, Flat, Region, Shape


@dataclass(frozen=True)
class ChunkName:
    """Which elements of `slot` of parameter `name` a stored tensor holds."""

    slot: str
    name: str
    where: str

    def __str__(self) -> str:
        return f"{self.slot}|{self.name}|{self.where}"

    @staticmethod
    def of(slot: str, name: str, region: Region) -> "ChunkName":
        where = f"{region.start}" if isinstance(region, Flat) else ",".join(map(str, region.offsets))
        return ChunkName(slot, name, where)

    @staticmethod
    def parse(text: str) -> "ChunkName":
        return ChunkName(*text.split("|"))

    def region(self, sizes: Shape) -> Region:
        """Returns the elements that a stored tensor of shape `sizes` under this name holds."""
        if "," in self.where:
            return Box(tuple(map(int, self.where.split(","))), sizes)
        return Flat(int(self.where), prod(sizes))


@dataclass(frozen=True)
class Saved:
    """A chunk to write: its name, the shape of the whole tensor, of the chunk, and its elements, flat."""

    name: ChunkName
    shape: Shape
    sizes: Shape
    data: tuple[torch.Tensor, ...]  # one after another: the live elements, or a copy of them
    is_first: bool  # holds the tensor's first element

    @property
    def count(self) -> int:
        return sum(part.numel() for part in self.data)


def chunks_of(engine: Engine) -> Iterator[Saved]:
    """Yields this process's share; over all processes every element comes once."""
    for piece in engine.pieces():
        if not piece.frozen:
            yield from map(_saved, _writers([piece]))
            for slot, state in engine.optimizer.state.get(piece.owner, {}).items():
                yield from map(_saved, _writers(state_pieces(piece, slot, state)))


def num_weights(engine: Engine) -> int:
    """Returns how many trained weights this process writes."""
    return sum(piece.region.count for piece in engine.pieces() if piece.writes and not piece.frozen)


def state_pieces(piece: Piece, slot: str, state: torch.Tensor | float) -> Iterator[Piece]:
    """Yields what this process keeps of an optimizer state of the parameter that `piece` is of.

    A state of the parameter's shape is cut like it; a DTensor that is not by its own layout; anything else is whole
    on every process, and written by the one that writes the parameter's first element.
    """
    if torch.is_tensor(state) and _is_cut_alike(state, piece.owner):
        yield replace(piece, owner=state, slot=slot)
    elif isinstance(state, DTensor):
        if piece.offset == 0:  # once, though a parameter may have several pieces here
            yield from pieces_of(piece.name, state, slot, share=False)
    else:
        value = torch.as_tensor(state, dtype=torch.float32)
        writes = piece.writes and piece.region.is_first
        yield Piece(piece.name, tuple(value.shape), Flat(0, value.numel()), value, 0, writes, slot)


def _is_cut_alike(state: torch.Tensor, owner: torch.Tensor) -> bool:
    if isinstance(state, DTensor) and isinstance(owner, DTensor) and state.placements != owner.placements:
        return False
    return state.shape == owner.shape


def _writers(pieces: Iterator[Piece] | list[Piece]) -> Iterator[Piece]:
    return (piece for piece in pieces if piece.writes and piece.region.count)


def _saved(piece: Piece) -> Saved:
    name = ChunkName.of(piece.slot, piece.name, piece.region)
    sizes = (piece.region.count,) if isinstance(piece.region, Flat) else piece.region.sizes
    return Saved(name, piece.shape, sizes, (piece.data(),), piece.region.is_first)


def save_tensors(tensors: dict[str, torch.Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file with the permissions that any new file has; the library's own are 0600.

    OSError when the disk takes no more; the library's own error is none.
    """
    try:
        save_file(tensors, file, metadata=metadata)
    except SafetensorError as error:
        raise OSError(f"{file}: {error}") from error
    umask = os.umask(0)
    os.umask(umask)
    file.chmod(0o666 & ~umask)


BLOCK = 2**22  # elements on their way: 16 MiB of fp32


def write_file(file: Path, chunks: Sequence[Saved]) -> dict[str, Any]:
    """Writes the chunks; returns the manifest's entry of the file, which would survive a loss of power.

    OSError with the file's name when it cannot be written; then it is gone, and what it took of a full disk is free.
    """
    sealing = Sealing()
    header = _header(chunks)
    try:
        with file.open("wb", buffering=0) as handle:
            _write(handle, memoryview(header))
            for part in _data(chunks):
                heartbeat.beat()
                sealing.add(part)
                _write(handle, part)
            os.fsync(handle.fileno())
            size = handle.tell()
    except OSError as error:
        with suppress(OSError):
            file.unlink()
        raise OSError(error.errno, error.strerror, str(file)) from error
    return {"name": file.name, "bytes": size, "xxh3_128": [hash_of(header), *sealing.blocks()]}


def _header(chunks: Sequence[Saved]) -> bytes:
    """Returns the file's first bytes: the length of the header, and the header."""
    header, end = {}, 0
    for chunk in chunks:
        begin, end = end, end + 4 * chunk.count
        header[str(chunk.name)] = {"dtype": "F32", "shape": chunk.sizes, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _data(chunks: Sequence[Saved]) -> Iterator[memoryview]:
    blocks = (block for chunk in chunks for part in chunk.data for block in part.split(BLOCK))
    for block in on_host(blocks):
        yield block.numpy().data.cast("B")


def on_host(blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yields each block, of at most BLOCK elements, as fp32 in host memory; it stays valid until the next one is asked
    for. Out of a device the next one is copied meanwhile, into one of two pinned buffers."""
    ring: list[torch.Tensor] = []
    under_way: deque[tuple[torch.Tensor, torch.Event | None]] = deque()
    for i, block in enumerate(blocks):
        if block.device.type == "cpu":
            under_way.append((block.float(), None))
        else:
            ring = ring or [torch.empty(BLOCK, pin_memory=True) for _ in range(2)]
            place = ring[i % 2][: block.numel()].copy_(block, non_blocking=True)
            copied = torch.Event(block.device)
            copied.record()
            under_way.append((place, copied))
        if len(under_way) > 1:
            yield _when_copied(*under_way.popleft())
    while under_way:
        yield _when_copied(*under_way.popleft())


def _when_copied(block: torch.Tensor, copied: torch.Event | None) -> torch.Tensor:
    if copied is not None:
        copied.synchronize()
    return block


def _write(handle: BinaryIO, part: memoryview) -> None:
    while part:
        part = part[handle.write(part) :]
