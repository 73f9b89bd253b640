"""What of an engine goes into a checkpoint: this process's share of the trained parameters and of their state."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.distributed.tensor import DTensor

from distft.checkpoint.names import ChunkName
from distft.runtime.regions import Flat, Shape
from distft.strategies.dtensor import pieces_of
from distft.strategies.engine import Engine, Piece


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
