"""The process group of a run: rank, world and device of this process, and the collectives of distft.

Trap: gloo is the only backend that runs without accelerators; NCCL and others are chosen by torch.accelerator
and have not been tested on a GPU yet.
"""

import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict

import torch
import torch.distributed as dist

from distft.compat import collectives
from distft.compat.reach import version_of
from distft.runtime import heartbeat
from distft.runtime.environment import code_of, recorded

# The watchdog (distft.launchers.watchdog) detects a rank that hangs; NCCL's default of 10 minutes kills ranks
# that wait for a slow save.
COLLECTIVE_SECONDS = 86_400.0
BACKENDS = {"cuda": "nccl", "xpu": "xccl", "cpu": "gloo"}


@dataclass(frozen=True)
class World:
    """This process's place among all processes."""

    rank: int
    size: int
    local_rank: int  # on this machine
    local_size: int  # processes on this machine
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def enter_device(self) -> None:
        """Makes this process's device current in the calling thread; a new thread starts with device 0."""
        if self.device.type != "cpu":
            torch.accelerator.set_device_index(self.device.index)


@contextmanager
def process_group(timeout_seconds: float = COLLECTIVE_SECONDS) -> Iterator[World]:
    """Joins the process group of torchrun's environment, and leaves it at the end.

    timeout_seconds: how long a collective may wait.
    After an exception the group is not destroyed: that would wait for the peers.
    """
    local_rank = int(os.environ["LOCAL_RANK"])
    device = device_of(local_rank)
    is_cpu = device.type == "cpu"
    if not is_cpu:
        torch.accelerator.set_device_index(local_rank)
    timeout = timedelta(seconds=timeout_seconds)
    dist.init_process_group(BACKENDS[device.type], timeout=timeout, device_id=None if is_cpu else device)
    with heartbeat.counting_collectives():
        yield World(dist.get_rank(), dist.get_world_size(), local_rank, int(os.environ["LOCAL_WORLD_SIZE"]), device)
    dist.destroy_process_group()


@contextmanager
def single_process() -> Iterator[World]:
    """Makes a process group of this process alone, which opens no socket, and leaves it at the end."""
    device = device_of(0)
    store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]  # documented, but not in __all__
    dist.init_process_group(BACKENDS[device.type], store=store, rank=0, world_size=1)
    try:
        yield World(0, 1, 0, 1, device)
    finally:
        dist.destroy_process_group()


def collective_seconds(hang_seconds: float | None, hang_seconds_outside: float) -> float:
    """Returns the timeout of collectives: longer than the watchdog's limits, in steps and outside of them."""
    return max(COLLECTIVE_SECONDS, 2 * (hang_seconds or 0.0), 2 * hang_seconds_outside)


def share_timeout(timeout_seconds: float) -> None:
    """Sets this timeout for every process group.

    Trap: torch's meshes and DeepSpeed create groups with the default of their backend, not of the first group.
    """
    collectives.set_timeouts(timedelta(seconds=timeout_seconds))


def device_of(local_rank: int) -> torch.device:
    """Returns a rank's device: the CPU on a machine without accelerators, for every build of torch."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.device(accelerator.type, local_rank) if accelerator else torch.device("cpu")


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Returns the elementwise sum of `values` over all processes, the same bits on each."""
    total = values.clone()
    dist.all_reduce(total)
    return total


def gather_rows(rows: torch.Tensor, world: World) -> torch.Tensor:
    """Returns the rows of all processes in rank order, [N, K], on every process.

    rows: [n, K], n of any number; a process without rows may have another K.
    """
    sizes = [torch.zeros(2, dtype=torch.int64, device=world.device) for _ in range(world.size)]
    dist.all_gather(sizes, torch.tensor(rows.shape, device=world.device))
    counts = [int(count) for count, _ in sizes]
    width = max((int(width) for count, width in sizes if count), default=0)
    padded = rows.new_zeros(max(counts), width)
    padded[: len(rows)] = rows
    everyones = [torch.empty_like(padded) for _ in range(world.size)]
    dist.all_gather(everyones, padded)
    return torch.cat([each[:count] for each, count in zip(everyones, counts, strict=True)])


def on_device(numbers: Sequence[float], device: torch.device) -> torch.Tensor:
    """Returns host numbers as a tensor, fp64 [N]; the host does not wait for the device."""
    return upload(torch.tensor(numbers, dtype=torch.float64, pin_memory=device.type != "cpu"), device)


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Returns a host tensor on `device`; the copy is asynchronous from pinned memory."""
    return tensor.to(device, non_blocking=True)


def differ(value: torch.Tensor, group: dist.ProcessGroup) -> bool:
    """Returns whether `value` differs between members of `group`."""
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


def flags_of_first(flags: Sequence[bool], world: World) -> list[bool]:
    """Returns rank 0's `flags` on every process."""
    decided = torch.tensor(list(map(float, flags)), device=world.device)
    dist.broadcast(decided, 0)
    return [flag > 0 for flag in decided.tolist()]


def texts_of_all(text: str, world: World) -> list[str]:
    """Returns every process's `text` in rank order, on every process."""
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


MAIN_PACKAGES = ("distft", "torch", "deepspeed", "transformers", "tokenizers", "datasets", "peft", "safetensors")


class RankEnvironment(TypedDict):
    """A rank's host, and its variables that differ from rank 0's; null: not set."""

    host: str
    variables: dict[str, str | None]


class Environments(TypedDict):
    """What nodes.json records: the software of all ranks, rank 0's variables, and each rank's own."""

    software: dict[str, str]
    variables: dict[str, str]
    ranks: list[RankEnvironment]


def compare(world: World) -> Environments:
    """Returns the environment of every rank; RuntimeError on all ranks when their software differs."""
    mine = {"host": socket.gethostname(), "variables": recorded(os.environ)}
    mine["software"] = software() if world.local_rank == 0 else {}
    every = [json.loads(text) for text in texts_of_all(json.dumps(mine), world)]
    first = every[0]
    for rank, other in enumerate(every):
        for key in (key for key, value in other["software"].items() if value != first["software"][key]):
            raise RuntimeError(
                f"rank {rank} on {other['host']} has {key} {other['software'][key]}, rank 0 on {first['host']} has "
                f"{first['software'][key]}. Try: one environment on a disk that all nodes share"
            )
    ranks = [_differing(first["variables"], other) for other in every]
    return {"software": first["software"], "variables": first["variables"], "ranks": ranks}


def software() -> dict[str, str]:
    """Returns the software that must be equal on all ranks: Python, packages that compute, commit."""
    git = code_of()
    found = {name: version_of(name) or "not installed" for name in MAIN_PACKAGES}
    return {"python": sys.version.split()[0], **found, "commit": str(git["commit"] if git else None)}


def _differing(first: Mapping[str, str], rank: Mapping[str, Any]) -> RankEnvironment:
    """Reduces a rank's environment to its differences from `first`, the variables of rank 0."""
    own = rank["variables"]
    differing = {name: own.get(name) for name in sorted({*first, *own}) if own.get(name) != first.get(name)}
    return {"host": rank["host"], "variables": differing}
