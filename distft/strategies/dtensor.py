"""A DTensor as pieces, whatever its mesh and placements."""

from collections.abc import Iterator
from dataclasses import replace
from math import prod

from torch.distributed.tensor import DTensor

from distft.compat.sharding import local_box
from distft.runtime.regions import Box, Flat
from distft.strategies.engine import Piece, shares


def pieces_of(
    name: str, tensor: DTensor, slot: str = "parameter", frozen: bool = False, share: bool = True
) -> Iterator[Piece]:
    """Yields what this process keeps of `tensor`: whole rows as a flat range, anything else as a box.

    A process that keeps no element yields an empty piece: the optimizer may still hold a state for the tensor there.
    share: replicas write a part each; else, and where it is a box, the first of them writes all.
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
