"""Saves and loads tensors of known values in any DTensor layout: `python -m tests.checkpoint.layouts OUT JOBS.json`.

A tensor's values are decided by its name and slot, so every process knows what it must find, bit by bit.
"""

import json
import sys
import zlib
from collections.abc import Iterator
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from distft.checkpoint.chunks import state_pieces
from distft.checkpoint.format import step_dir
from distft.checkpoint.load import Checkpoint, restore
from distft.runtime.process_group import World, process_group, texts_of_all
from distft.strategies.engine import Piece
from distft.strategies.fsdp import pieces_of
from tests.support.train_cases import save

SHAPES = {"wide": (7, 6), "cube": (5, 3, 4), "bias": (5,), "short": (3, 2), "one": (), "frozen": (6, 5)}
ROWS = {"wide": (7,), "cube": (5, 3), "short": (3,)}  # a factor for each row, smaller than its parameter
STEP = 5
ODD = [-0.0, float("nan"), float("inf"), 1e-45]  # what a conversion would lose
# layout -> axes of the mesh, and how they cut a tensor of 1, 2 or more dims; `tp` and `rowwise` are torch's own
LAYOUTS: dict[str, tuple[tuple[int, ...], list[list[Placement]]]] = {
    "one": ((1,), [[Shard(0)]]),
    "dim 0": ((4,), [[Shard(0)]]),
    "dim 1": ((4,), [[Shard(0)], [Shard(1)]]),
    "last dim": ((4,), [[Shard(0)], [Shard(1)], [Shard(2)]]),
    "replicas": ((4,), [[Replicate()]]),
    "replicas x dim 0": ((2, 2), [[Replicate(), Shard(0)]]),
    "dim 1 x replicas": ((2, 2), [[Shard(0), Replicate()], [Shard(1), Replicate()]]),
    "dim 1 x dim 0": ((2, 2), [[Replicate(), Shard(0)], [Shard(1), Shard(0)]]),
    "dim 0 x dim 1": ((2, 2), [[Shard(0), Replicate()], [Shard(0), Shard(1)]]),
    "dim 0 x dim 0": ((2, 2), [[Shard(0), Shard(0)]]),
    "fsdp x tp": ((2, 2), [[Shard(0), Shard(0)]]),
    "fsdp x tp rowwise": ((2, 2), [[Shard(0), Shard(0)]]),
}
TP = {"fsdp x tp": ColwiseParallel, "fsdp x tp rowwise": RowwiseParallel}


def value_of(slot: str, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Returns what the whole tensor holds."""
    random = torch.Generator().manual_seed(zlib.crc32(f"{slot} {name}".encode()))
    values = torch.randn(prod(shape), generator=random)
    if len(values) > len(ODD):
        values[: len(ODD)] = torch.tensor(ODD)
    return values.view(shape)


@cache
def make_mesh(sizes: tuple[int, ...]) -> DeviceMesh:
    return init_device_mesh("cpu", sizes, mesh_dim_names=("data", "tensor")[: len(sizes)])


class Held:
    """As much of an engine as is saved and loaded: parameters in a layout, and an optimizer's state."""

    def __init__(self, layout: str, filled: bool) -> None:
        """filled: with the values, else with zeros and without state, but the frozen one, as from the base model."""
        sizes, self.cuts = LAYOUTS[layout]
        self.mesh = make_mesh(sizes)
        self.parameters = {name: self.cut("parameter", name, shape) for name, shape in SHAPES.items()}
        if layout in TP:
            self.parameters |= self.torchs_own(TP[layout]())
        if not filled:
            for name, parameter in self.parameters.items():
                parameter.to_local().mul_(0).nan_to_num_(0) if name != "frozen" else None
        self.optimizer = torch.optim.SGD([p for name, p in self.parameters.items() if name != "frozen"])
        if filled:
            for name, parameter in self.parameters.items():
                self.optimizer.state[parameter] |= self.state(name, SHAPES[name]) if name != "frozen" else {}

    def cut(self, slot: str, name: str, shape: tuple[int, ...]) -> DTensor:
        whole = value_of(slot, name, shape)
        if not shape:
            return distribute_tensor(whole, self.mesh, [Replicate()] * self.mesh.ndim)
        return distribute_tensor(whole, self.mesh, self.cuts[min(len(shape), len(self.cuts)) - 1])

    def torchs_own(self, style: Any) -> dict[str, DTensor]:
        """Returns a weight as tensor parallelism and then FSDP2 leave it, cut twice along one dim or along both."""
        wide = torch.nn.Linear(*SHAPES["wide"][::-1], bias=False)
        wide.weight.data.copy_(value_of("parameter", "wide", SHAPES["wide"]))
        module = torch.nn.Sequential(wide)
        fully_shard(parallelize_module(module, self.mesh["tensor"], {"0": style}), mesh=self.mesh["data"])
        weight: Any = wide.weight
        return {"wide": weight.detach()}

    def state(self, name: str, shape: tuple[int, ...]) -> dict[str, Any]:
        """Returns a moment cut like the parameter and one that is not cut, a row's factor as a DTensor, a column's
        whole on every process, and a number."""
        mesh, placements = self.parameters[name].device_mesh, self.parameters[name].placements
        moment, uncut = (
            distribute_tensor(value_of(slot, name, shape), mesh, [Replicate()] * mesh.ndim)
            for slot in ("moment", "uncut")
        )
        state: dict[str, Any] = {"moment": moment.redistribute(mesh, placements), "uncut": uncut, "step": 5.0}
        if name in ROWS:
            state["row"] = self.cut("row", name, ROWS[name])
            state["column"] = value_of("column", name, shape[-1:])
        return state

    def pieces(self) -> Iterator[Piece]:
        for name, parameter in self.parameters.items():
            yield from pieces_of(name, parameter, frozen=name == "frozen")

    def refresh(self) -> None: ...

    def wrong(self) -> list[str]:
        """Returns what this process holds that is not as it was saved."""
        found = list(self.pieces())
        for piece in list(found):
            state = self.optimizer.state.get(piece.owner, {})
            slots = (
                set()
                if piece.frozen
                else {"moment", "uncut", "step"} | ({"row", "column"} if piece.name in ROWS else set())
            )
            if state.keys() != slots:
                return [f"{piece.name} has {sorted(state)}"]
            found += [each for slot, value in state.items() for each in state_pieces(piece, slot, value)]
        return [f"{piece.key} {piece.region}" for piece in found if piece.region.count and not _same(piece)]


def _same(piece: Piece) -> bool:
    whole = torch.tensor(5.0) if piece.slot == "step" else value_of(*piece.key, piece.shape)
    boxes = [box for _, box in piece.region.cut(piece.shape, 0, piece.region.count)]
    wanted = torch.cat([whole[_slices(box)].reshape(-1) for box in boxes])
    return torch.equal(wanted.view(torch.int32), piece.data().view(torch.int32))


def _slices(box: Any) -> tuple[slice, ...]:
    return tuple(slice(at, at + size) for at, size in zip(box.offsets, box.sizes, strict=True))


def run_job(job: dict[str, str], world: World) -> list[str]:
    """Saves a layout, or loads what another saved; returns what is wrong on any process."""
    engine: Any = Held(job["layout"], filled="save" in job)
    if "save" in job:
        save(engine, Path(job["save"]), STEP, world)
    else:
        restore(engine, Checkpoint(step_dir(Path(job["load"]), STEP), world), world)
    return [each for text in texts_of_all(json.dumps(engine.wrong()), world) for each in json.loads(text)]


def main() -> None:
    out, jobs = sys.argv[1:]
    torch.set_num_threads(1)
    with process_group() as world:
        answers = [run_job(job, world) for job in json.loads(Path(jobs).read_text())]
        if world.is_first:
            Path(out).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
