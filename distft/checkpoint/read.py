"""Reads a checkpoint: any elements of any tensor, put together from whatever chunks were written."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch

from distft.checkpoint.format import PARAMETER, ChunkName
from distft.checkpoint.manifest import read_manifest
from distft.models.safetensors_dir import Stored, open_safetensors
from distft.models.weights import fill
from distft.strategies.engine import Engine, Piece


class Checkpoint:
    """A checkpoint on disk. It reads what is there; whether that is what was written is `resume`'s question."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.chunks: dict[tuple[str, str], list[tuple[int, Stored]]] = defaultdict(list)
        for entry in self.manifest["files"]:
            file = folder / entry["name"]
            for text, stored in open_safetensors(file).items():
                chunk = ChunkName.parse(text)
                self.chunks[chunk.slot, chunk.name].append((chunk.start, stored))
        for chunks in self.chunks.values():
            chunks.sort(key=lambda chunk: chunk[0])

    @property
    def step(self) -> int:
        return self.manifest["step"]

    @property
    def slots(self) -> set[str]:
        """The optimizer's states that have a value for each element."""
        return {slot for slot, _ in self.chunks} - {PARAMETER}

    @property
    def names(self) -> list[str]:
        return [name for slot, name in self.chunks if slot == PARAMETER]

    def read(self, name: str, shape: tuple[int, ...], start: int, count: int, slot: str = PARAMETER) -> torch.Tensor:
        """Returns elements start..start+count of a tensor, row-major, as fp32 [count]."""
        parts, at = [], start
        for first, stored in self.chunks[slot, name]:
            if first <= at < first + stored.count and at < start + count:
                stop = min(first + stored.count, start + count)
                parts.append(stored.read(at - first, stop - at))
                at = stop
        if at != start + count:
            raise RuntimeError(f"{self.folder} holds no element {at} of {slot} {name}")
        return torch.cat(parts) if len(parts) != 1 else parts[0]


class _Slot:
    """One optimizer state of a checkpoint, as a source to fill from."""

    def __init__(self, checkpoint: Checkpoint, slot: str) -> None:
        self.checkpoint, self.slot = checkpoint, slot

    def read(self, name: str, shape: tuple[int, ...], start: int, count: int) -> torch.Tensor:
        return self.checkpoint.read(name, shape, start, count, self.slot)


def restore(engine: Engine, checkpoint: Checkpoint) -> None:
    """Fills parameters and optimizer state of `engine`, of any strategy on any number of processes."""
    pieces = list(engine.pieces())
    fill(pieces, checkpoint)
    stepped = [piece for piece in pieces if any((slot, piece.name) in checkpoint.chunks for slot in checkpoint.slots)]
    for owner in {id(piece.owner): piece.owner for piece in stepped}.values():
        state = engine.optimizer.state[owner]
        for slot in checkpoint.slots:
            state[slot] = torch.zeros_like(owner)
        for slot, value in checkpoint.manifest["scalars"].items():
            state[slot] = torch.tensor(value, dtype=torch.float32)
    for slot in checkpoint.slots:
        fill(_in_state(engine, stepped, slot), _Slot(checkpoint, slot))
    engine.refresh()


def _in_state(engine: Engine, pieces: Iterable[Piece], slot: str) -> list[Piece]:
    """Returns the pieces with their owner replaced by its state `slot`."""
    return [
        Piece(p.name, p.shape, p.start, p.count, engine.optimizer.state[p.owner][slot], p.offset, p.writes)
        for p in pieces
    ]
