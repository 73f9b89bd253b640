"""The processes of a run: who this one is, on which device, and the few collectives the rest is built on.

Trap: gloo is the only backend that runs without accelerators; NCCL and others are chosen by torch.accelerator
and have not been run on a GPU yet.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

BACKENDS = {"cuda": "nccl", "xpu": "xccl", "cpu": "gloo"}


@dataclass(frozen=True)
class World:
    """This process among all."""

    rank: int
    size: int
    local_rank: int  # on this machine
    local_size: int  # processes on this machine
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0


@contextmanager
def process_group() -> Iterator[World]:
    """Joins the group that torchrun's environment describes, and leaves it at the end.

    After an exception the group is left to die with the process: destroying it would wait for the peers.
    """
    local_rank = int(os.environ["LOCAL_RANK"])
    accelerator = torch.accelerator.current_accelerator()
    device = torch.device(accelerator.type, local_rank) if accelerator else torch.device("cpu")
    if accelerator:
        torch.accelerator.set_device_index(local_rank)
    dist.init_process_group(BACKENDS[device.type])
    yield World(dist.get_rank(), dist.get_world_size(), local_rank, int(os.environ["LOCAL_WORLD_SIZE"]), device)
    dist.destroy_process_group()


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Returns the elementwise sum of `values` over all processes, the same bits on each."""
    total = values.clone()
    dist.all_reduce(total)
    return total


def differ(value: torch.Tensor, group: dist.ProcessGroup) -> bool:
    """Returns whether `value` is not the same on all members of `group`."""
    both = torch.stack([value, -value])
    dist.all_reduce(both, dist.ReduceOp.MAX, group=group)
    return bool(both[0] != -both[1])
