"""Cuts an engine's state into named chunks and writes them to one safetensors file per process.

A chunk name gives the elements that the chunk holds, so a reader needs to know neither strategy nor world size.
Trap: data on a device is copied through two pinned buffers in turn, so a block is valid until the next one is read.
"""

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from distft.runtime import heartbeat
from distft.strategies.engine import Engine, Piece
from distft.strategies.fsdp import pieces_of
from distft.tensors.integrity import ChecksumWriter, block_hash
from distft.tensors.regions import Box, Flat, Region, Shape


@dataclass(frozen=True)
class ChunkName:
    """The name of a stored tensor: the slot, the parameter, and the position of its first element."""

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
        """Returns the elements held by a stored tensor with this name and shape `sizes`."""
        if "," in self.where:
            return Box(tuple(map(int, self.where.split(","))), sizes)
        return Flat(int(self.where), prod(sizes))


@dataclass(frozen=True)
class Saved:
    """A chunk to write."""

    name: ChunkName
    shape: Shape  # of the whole tensor
    sizes: Shape  # of this chunk
    data: tuple[torch.Tensor, ...]  # flat parts in order: the live elements, or a copy of them
    is_first: bool  # holds the tensor's first element

    @property
    def count(self) -> int:
        return sum(part.numel() for part in self.data)


def chunks_of(engine: Engine) -> Iterator[Saved]:
    """Yields this process's share of parameters and optimizer state; over all processes, each element once."""
    for piece in engine.pieces():
        if not piece.frozen:
            yield from map(_saved, _writers([piece]))
            for slot, state in engine.optimizer.state.get(piece.owner, {}).items():
                yield from map(_saved, _writers(state_pieces(piece, slot, state)))


def num_weights(engine: Engine) -> int:
    """Returns the number of trained weights that this process writes."""
    return sum(piece.region.count for piece in engine.pieces() if piece.writes and not piece.frozen)


def state_pieces(piece: Piece, slot: str, state: torch.Tensor | float) -> Iterator[Piece]:
    """Yields this process's share of one optimizer state of the parameter in `piece`.

    A state with the parameter's shape is sharded like the parameter. Another DTensor is sharded by its own placements.
    Any other state is replicated, and written by the process that writes the parameter's first element.
    """
    if torch.is_tensor(state) and _has_same_sharding(state, piece.owner):
        yield replace(piece, owner=state, slot=slot)
    elif isinstance(state, DTensor):
        if piece.offset == 0:  # once, though a parameter may have several pieces here
            yield from pieces_of(piece.name, state, slot, share=False)
    else:
        value = torch.as_tensor(state, dtype=torch.float32)
        writes = piece.writes and piece.region.is_first
        yield Piece(piece.name, tuple(value.shape), Flat(0, value.numel()), value, 0, writes, slot)


def _has_same_sharding(state: torch.Tensor, owner: torch.Tensor) -> bool:
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
    """Writes a safetensors file with the permissions of the umask; the library would set 0600.

    OSError when the disk is full; the library would raise an error of its own type.
    """
    try:
        save_file(tensors, file, metadata=metadata)
    except SafetensorError as error:
        raise OSError(f"{file}: {error}") from error
    umask = os.umask(0)
    os.umask(umask)
    file.chmod(0o666 & ~umask)


BLOCK = 2**22  # elements copied at a time: 16 MiB of fp32


FileEntry = dict[str, str | int | list[str]]  # of a manifest: name, bytes, xxh3_128 of header and blocks


def write_file(file: Path, chunks: Sequence[Saved]) -> FileEntry:
    """Writes and syncs the chunks; returns the manifest's entry for the file: name, bytes, block hashes.

    OSError with the file's name when the write fails; the file is then deleted, which frees its space.
    """
    writer = ChecksumWriter()
    header = _header(chunks)
    try:
        with file.open("wb", buffering=0) as handle:
            _write(handle, memoryview(header))
            for part in _data(chunks):
                heartbeat.beat()
                writer.add(part)
                _write(handle, part)
            os.fsync(handle.fileno())
            size = handle.tell()
    except OSError as error:
        with suppress(OSError):
            file.unlink()
        raise OSError(error.errno, error.strerror, str(file)) from error
    return {"name": file.name, "bytes": size, "xxh3_128": [block_hash(header), *writer.blocks()]}


def _header(chunks: Sequence[Saved]) -> bytes:
    """Returns the first bytes of the file: the length of the header, then the header."""
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
    """Yields each block, of at most BLOCK elements, as fp32 in host memory, valid until the next one is read.

    The next block of a device is copied at the same time, into the other of two pinned buffers.
    """
    ring: list[torch.Tensor] = []
    in_flight: deque[tuple[torch.Tensor, torch.Event | None]] = deque()
    for i, block in enumerate(blocks):
        if block.device.type == "cpu":
            in_flight.append((block.float(), None))
        else:
            ring = ring or [torch.empty(BLOCK, pin_memory=True) for _ in range(2)]
            place = ring[i % 2][: block.numel()].copy_(block, non_blocking=True)
            copied = torch.Event(block.device)
            copied.record()
            in_flight.append((place, copied))
        if len(in_flight) > 1:
            yield _wait_copied(*in_flight.popleft())
    while in_flight:
        yield _wait_copied(*in_flight.popleft())


def _wait_copied(block: torch.Tensor, copied: torch.Event | None) -> torch.Tensor:
    if copied is not None:
        copied.synchronize()
    return block


def _write(handle: BinaryIO, part: memoryview) -> None:
    while part:
        part = part[handle.write(part) :]
