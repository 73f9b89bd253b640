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

from distft.runtime import heartbeat

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
    device = device_of(local_rank)
    if device.type != "cpu":
        torch.accelerator.set_device_index(local_rank)
    dist.init_process_group(BACKENDS[device.type])
    with heartbeat.telling_collectives():
        yield World(dist.get_rank(), dist.get_world_size(), local_rank, int(os.environ["LOCAL_WORLD_SIZE"]), device)
    dist.destroy_process_group()


def device_of(local_rank: int) -> torch.device:
    """Returns a rank's device: the CPU on a machine without accelerators, whatever torch is built for."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.device(accelerator.type, local_rank) if accelerator else torch.device("cpu")


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


def from_first(text: str, world: World) -> str:
    """Returns rank 0's `text` on every process."""
    content = _bytes_of(text, world)
    size = torch.tensor([len(content)], device=world.device)
    dist.broadcast(size, 0)
    if not world.is_first:
        content = torch.empty(int(size), dtype=torch.uint8, device=world.device)
    dist.broadcast(content, 0)
    return _text_of(content)


def texts_of_all(text: str, world: World) -> list[str]:
    """Returns every process's `text`, in order of rank, as the same list on each."""
    mine = _bytes_of(text, world)
    sizes = [torch.zeros(1, dtype=torch.int64, device=world.device) for _ in range(world.size)]
    dist.all_gather(sizes, torch.tensor([len(mine)], device=world.device))
    longest = max(int(size) for size in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8, device=world.device)
    padded[: len(mine)] = mine
    everyones = [torch.empty_like(padded) for _ in range(world.size)]
    dist.all_gather(everyones, padded)
    return [_text_of(each) for each in everyones]


def _bytes_of(text: str, world: World) -> torch.Tensor:
    return torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8).to(world.device)


def _text_of(content: torch.Tensor) -> str:
    return content.cpu().numpy().tobytes().rstrip(b"\0").decode()
