"""Reads a checkpoint: any elements of any tensor, put together from whatever chunks were written."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from distft.checkpoint.chunks import state_pieces
from distft.checkpoint.format import PARAMETER
from distft.checkpoint.manifest import read_manifest, seals
from distft.checkpoint.names import ChunkName
from distft.models.headers import read_headers
from distft.models.stored import read_header, tensors_of
from distft.models.stream import Chunk, stream
from distft.runtime.process_group import World, from_first
from distft.runtime.regions import Flat, copy
from distft.runtime.seals import Damaged
from distft.strategies.engine import Engine, Piece


class Checkpoint:
    """A checkpoint on disk whose manifest and headers, read here, are what was written; its data is checked by those
    who read all of it."""

    def __init__(self, folder: Path, world: World | None = None) -> None:
        """world: the processes that open it together, each file read by one of them; None: this one alone.

        Damaged, on every process, when the manifest, or a file's size or header, is not what was written.
        """
        self.folder = folder
        self.manifest = _manifest(folder, world) if world else read_manifest(folder)
        self.seals = seals(folder, self.manifest)
        names = [file.name for file in self.seals]
        headers = (
            read_headers(folder, names, world, self.seals)
            if world
            else {file.name: read_header(file, seal) for file, seal in self.seals.items()}
        )
        self.shapes: dict[tuple[str, str], tuple[int, ...]] = {
            (slot, name): tuple(shape)
            for slot, shapes in self.manifest["tensors"].items()
            for name, shape in shapes.items()
        }
        self.chunks: dict[tuple[str, str], list[Chunk]] = defaultdict(list)
        for name, header in headers.items():
            for chunk in self._chunks(folder / name, header):
                self.chunks[chunk.key].append(chunk)

    def _chunks(self, file: Path, header: dict[str, Any]) -> Iterator[Chunk]:
        for text, stored in tensors_of(file, header).items():
            name = ChunkName.parse(text)
            key = (name.slot, name.name)
            yield Chunk(key, self.shapes[key], name.region(stored.shape), stored)

    @property
    def step(self) -> int:
        return self.manifest["step"]

    @property
    def slots(self) -> set[str]:
        """The optimizer's states, such as `exp_avg` and, one number a parameter, `step`."""
        return {slot for slot, _ in self.chunks} - {PARAMETER}

    @property
    def names(self) -> list[str]:
        return [name for slot, name in self.chunks if slot == PARAMETER]

    def read(self, name: str, shape: tuple[int, ...], start: int, count: int, slot: str = PARAMETER) -> torch.Tensor:
        """Returns elements start..start+count of a tensor, row-major, as fp32 [count]."""
        found, filled, wanted = torch.empty(count), 0, Flat(start, count)
        for chunk in self.chunks[slot, name]:
            first, number = 0, chunk.region.count
            if isinstance(chunk.region, Flat):
                first = max(0, start - chunk.region.start)
                number = min(number, start + count - chunk.region.start) - first
            if number > 0:
                boxes = list(chunk.region.cut(chunk.shape, first, number))
                filled += copy(chunk.stored.read(first, number), boxes, found, wanted, chunk.shape)
        if filled != count:
            raise RuntimeError(f"{self.folder} lacks {count - filled} elements of {slot} {name}")
        return found


def _manifest(folder: Path, world: World) -> dict[str, Any]:
    """Returns the manifest, which rank 0 reads, on every process."""
    told: dict[str, Any] = {}
    if world.is_first:
        try:
            told = {"manifest": read_manifest(folder)}
        except Damaged as error:
            told = {"damaged": str(error)}
    told = json.loads(from_first(json.dumps(told), world))
    if "damaged" in told:
        raise Damaged(told["damaged"])
    return told["manifest"]


def verify(checkpoint: Checkpoint, world: World) -> None:
    """Raises Damaged on every process unless each byte is what was written; each is read by one of them."""
    stream(_all_chunks(checkpoint), [], world, checkpoint.seals)


def restore(engine: Engine, checkpoint: Checkpoint, world: World) -> None:
    """Fills trained parameters and optimizer state of `engine`, of any strategy on any number of processes.

    Damaged on every process when a byte is not what was written: then the parameters hold anything, and the optimizer
    is one that has not stepped.
    """
    pieces = [piece for piece in engine.pieces() if not piece.frozen]
    had = {id(piece.owner) for piece in pieces if engine.optimizer.state.get(piece.owner)}
    states = [state for piece in pieces for state in _states(engine, piece, checkpoint)]
    try:
        stream(_all_chunks(checkpoint), [*pieces, *states], world, checkpoint.seals)
    except Damaged:
        _forget(engine, pieces, had)
        raise
    engine.refresh()


def _forget(engine: Engine, pieces: list[Piece], had: set[int]) -> None:
    """Takes away the optimizer's state; what it `had` before its first step, as some make it, was zero."""
    for piece in pieces:
        if id(piece.owner) not in had:
            engine.optimizer.state.pop(piece.owner, None)
    for state in engine.optimizer.state.values():
        for value in state.values():
            if torch.is_tensor(value):
                value.zero_()


def _all_chunks(checkpoint: Checkpoint) -> list[Chunk]:
    return [chunk for chunks in checkpoint.chunks.values() for chunk in chunks]


def _states(engine: Engine, piece: Piece, checkpoint: Checkpoint) -> Iterator[Piece]:
    """Yields the optimizer's state for `piece` as pieces to fill, made where the optimizer has not stepped yet."""
    for slot in checkpoint.slots:
        shape = checkpoint.shapes.get((slot, piece.name))
        if shape is not None:
            state = engine.optimizer.state[piece.owner]
            if not torch.is_tensor(state.get(slot)) or _shape_there(state[slot], piece) != shape:
                state[slot] = _empty_state(engine, piece, shape)
            yield from state_pieces(piece, slot, state[slot])


def _shape_there(state: torch.Tensor, piece: Piece) -> tuple[int, ...]:
    return piece.shape if state.shape == piece.owner.shape else tuple(state.shape)


def _empty_state(engine: Engine, piece: Piece, shape: tuple[int, ...]) -> torch.Tensor:
    if shape == piece.shape:
        return torch.zeros_like(piece.owner)
    on_device = any(group.get("fused") or group.get("capturable") for group in engine.optimizer.param_groups)
    local = piece.owner.to_local() if isinstance(piece.owner, DTensor) else piece.owner
    return torch.zeros(shape, device=local.device if on_device or shape else "cpu")
