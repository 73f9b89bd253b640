"""ddp, fsdp and hsdp are one mechanism, torch's FSDP2, over a mesh of (replicas, shards):

    ddp  = (world, 1)    fsdp = (1, world)    hsdp = (world / shard_size, shard_size)

The three differ in the mesh only, and bf16 compute over fp32 weights is the same in each.
Trap: a tied parameter may belong to one FSDP group only. So each block is a group, and all other parameters
(embeddings, head, last norm) belong to the root.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isfinite, prod
from typing import Literal, cast

import torch
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from distft.compat.sharding import local_box, mixed_precision, scale_in_place
from distft.data.batches import Batch
from distft.runtime.process_group import World
from distft.strategies.engine import (
    BuildModel,
    Loss,
    MakeOptimizer,
    Objective,
    Piece,
    Sums,
    bit_sum,
    clip_coefficient,
    shares,
    sum_of_squares,
    whole_pieces,
)
from distft.tensors.regions import Box, Flat


def pieces_of(
    name: str, tensor: DTensor, slot: str = "parameter", frozen: bool = False, share: bool = True
) -> Iterator[Piece]:
    """Yields the part of `tensor` on this process: whole rows as a flat range, any other part as a box.

    A process without elements yields an empty piece, since the optimizer may still hold a state for the tensor there.
    share: each replica writes a part; else, and for a box, the first replica writes all.
    """
    mesh = tensor.device_mesh
    sizes, offsets = local_box(tensor)
    count = prod(sizes)
    replicas, replica = 1, 0
    for dim, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            replicas = replicas * mesh.size(dim)
            replica = replica * mesh.size(dim) + mesh.get_local_rank(dim)
    shape = tuple(tensor.shape)
    piece = Piece(name, shape, Flat(0, count), tensor, slot=slot, frozen=frozen)
    if not count:
        yield piece
        return
    if tuple(sizes[1:]) != shape[1:]:
        yield replace(piece, region=Box(tuple(offsets), tuple(sizes)), writes=replica == 0)
        return
    start = offsets[0] * prod(shape[1:]) if shape else 0
    parts = shares(count, replicas, replica) if share else [(range(count), replica == 0)]
    for part, writes in parts:
        yield replace(piece, region=Flat(start + part.start, len(part)), offset=part.start, writes=writes)


@dataclass(frozen=True)
class FullySharded:
    """Replicates the model over groups of processes and shards it within each group.

    shard_size: for hsdp, processes that share one copy of the model; a divisor of the world; None: those of one node.
    """

    layout: Literal["ddp", "fsdp", "hsdp"]
    shard_size: int | None = None

    def setup(
        self, build_model: BuildModel, make_optimizer: MakeOptimizer, world: World, precision: torch.dtype
    ) -> "ShardedEngine":
        shards = {"ddp": 1, "fsdp": world.size, "hsdp": self.shard_size or world.local_size}[self.layout]
        if world.size % shards:
            raise ValueError(f"strategy.shard_size={shards} does not divide the {world.size} processes of the run")
        mesh = init_device_mesh(
            world.device.type, (world.size // shards, shards), mesh_dim_names=("replicas", "shards")
        )
        policy = MixedPrecisionPolicy(
            param_dtype=precision if precision != torch.float32 else None, reduce_dtype=torch.float32
        )
        objective = build_model()
        frozen = _hold_frozen_in(precision, objective)
        plain = frozen if shards == 1 else set()  # not managed by FSDP2, which would keep a compute copy of each
        for block in objective.blocks:
            stays = shards == 1 or block is objective.blocks[-1]  # the backward starts with the last block
            fully_shard(
                block, mesh=mesh, mp_policy=policy, reshard_after_forward=not stays, ignored_params=plain or None
            )
        fully_shard(objective, mesh=mesh, mp_policy=policy, reshard_after_forward=False, ignored_params=plain or None)
        _materialise(objective, world.device)
        optimizer = make_optimizer([(p, p.ndim) for p in objective.parameters()])
        return ShardedEngine(objective, optimizer)


class ShardedEngine:
    """A model under FSDP2: fp32 weights and moments in shards, gathered and cast for compute."""

    def __init__(self, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
        self.objective = objective
        self.optimizer = optimizer
        parameter = next(parameter for parameter in objective.parameters() if isinstance(parameter, DTensor))
        self.mesh, self.device = parameter.device_mesh, parameter.device
        self.replicas, shards = self.mesh["replicas"].size(), self.mesh["shards"].size()
        self.rank = self.mesh.get_rank()
        self.is_sharded = shards > 1  # read once: a mesh looks it up in a tensor

    def forward(self, batch: Batch, loss: Loss | None = None) -> tuple[torch.Tensor, Sums]:
        return self.objective(batch, loss)

    def backward(self, value: torch.Tensor, scale: float, last: bool) -> None:
        root = cast(FSDPModule, self.objective)
        if self.is_sharded:
            root.set_requires_all_reduce(last)  # reduce-scatter each time: no process holds the whole gradient
            root.set_reshard_after_backward(last, recurse=False)  # the next forward starts with the root's weights
        else:
            root.set_requires_gradient_sync(last)  # replicas keep whole gradients and reduce once per step
            root.set_reshard_after_backward(last)  # and keep the weights cast for the first micro-batch
        root.set_is_last_backward(last)
        (value * scale).backward()

    def squared_norm(self) -> torch.Tensor:
        own = [cast(DTensor, gradient).to_local() for gradient in self._gradients()]
        return sum_of_squares(own, self.device) / self.replicas

    def update(self, norm: float, max_norm: float | None) -> None:
        if isfinite(norm):
            coefficient = clip_coefficient(norm, max_norm)
            if coefficient < 1:
                scale_in_place(self._gradients(), coefficient)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _gradients(self) -> list[torch.Tensor]:
        return [p.grad for p in self.objective.parameters() if p.grad is not None]

    def train(self, mode: bool) -> None:
        self.objective.train(mode)
        self._drop_gathered()

    def _drop_gathered(self) -> None:
        """Frees the gathered weights of a forward without a backward and restores the shards."""
        for module in self.objective.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def pieces(self) -> Iterator[Piece]:
        self._drop_gathered()
        for name, parameter in self.objective.own_parameters():
            if isinstance(parameter, DTensor):
                yield from pieces_of(name, parameter, frozen=not parameter.requires_grad)
            else:
                yield from whole_pieces(name, parameter, self.rank, self.replicas)

    def refresh(self) -> None:
        """Does nothing: every forward gathers and casts the fp32 shards."""

    def fingerprint(self) -> tuple[torch.Tensor, ProcessGroup | None]:
        self._drop_gathered()
        own = [p.to_local() if isinstance(p, DTensor) else p for p in self.objective.parameters()]
        return bit_sum(own), self.mesh.get_group("replicas")

    def effective(self) -> dict[str, object]:
        parameters = list(self.objective.parameters())
        states = [v for s in self.optimizer.state.values() for v in s.values() if torch.is_tensor(v) and v.ndim]
        policy = mixed_precision(self.objective)
        return {
            "replicas": self.mesh["replicas"].size(),
            "shards": self.mesh["shards"].size(),
            "compute_dtype": str(policy.param_dtype or torch.float32),
            "reduce_dtype": str(policy.reduce_dtype),
            "weight_dtypes": sorted({str(p.dtype) for p in parameters if p.requires_grad}),
            "frozen_dtypes": sorted({str(p.dtype) for p in parameters if not p.requires_grad}),
            "moment_dtypes": sorted({str(v.dtype) for v in states}),
        }


def _hold_frozen_in(precision: torch.dtype, objective: Objective) -> set[nn.Parameter]:
    """Casts frozen weights to the compute dtype, instead of fp32 plus a copy, and returns them.

    Results stay the same: the cast is done once instead of in each forward.
    """
    frozen = {parameter for parameter in objective.parameters() if not parameter.requires_grad}
    for parameter in frozen:
        parameter.data = parameter.data.to(precision)
    return frozen


def _materialise(objective: Objective, device: torch.device) -> None:
    """Allocates the weights of a model on meta; buffers keep their values, tied weights stay one parameter.

    Trap: to_empty() splits a tied weight that is not a DTensor into two, and half of its gradient would be lost.
    """
    places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in objective.modules():
        for name, parameter in module.named_parameters(recurse=False):
            places[parameter].append((module, name))
    buffers = {name: buffer.clone() for name, buffer in objective.named_buffers()}
    objective.to_empty(device=device)
    for name, buffer in objective.named_buffers():
        buffer.copy_(buffers[name])
    for (first, its_name), *others in places.values():
        for module, name in others:
            setattr(module, name, getattr(first, its_name))
    assert len(list(objective.parameters())) == len(places)
