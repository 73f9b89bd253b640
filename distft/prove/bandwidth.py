"""The ranks that measure collectives between the devices of this machine."""

import time
from collections.abc import Callable
from typing import TypedDict

import torch
import torch.distributed as dist

from distft.prove.jobs import MEASURED
from distft.run import RunFolder, write_json
from distft.runtime import heartbeat
from distft.runtime.device import synchronize
from distft.runtime.process_group import BACKENDS, World

_SIZES_MIB = {"cpu": (1, 8)}
_SIZES_OF_ACCELERATOR = (1, 64, 1024)
_ROUNDS = 5


class Bandwidth(TypedDict):
    """The bus bandwidth of one collective."""

    backend: str
    by_size: list[tuple[int, float]]  # MiB, GB/s


def work(run: RunFolder, attempt: int, world: World) -> None:
    """Writes the bus bandwidth of each collective by size, as nccl-tests counts it."""
    sizes = _SIZES_MIB.get(world.device.type, _SIZES_OF_ACCELERATOR)
    found: dict[str, Bandwidth] = {}
    share = (world.size - 1) / world.size
    for name, factor in (("all_reduce", 2 * share), ("all_gather", share), ("reduce_scatter", share)):
        rates = []
        for mib in sizes:
            heartbeat.enter("evaluation")
            count = mib * 2**20 // 4 // world.size * world.size
            rates.append((mib, factor * 4 * count / seconds_of(make(name, count, world), world) / 1e9))
        found[name] = {"backend": BACKENDS[world.device.type], "by_size": rates}
    if world.is_first:
        write_json(run.path / MEASURED, found)
        run.write_status(state="completed")


def make(name: str, count: int, world: World) -> Callable[[], object]:
    """Returns the collective on `count` fp32 numbers over all processes."""
    whole = torch.zeros(count, device=world.device)
    part = torch.zeros(count // world.size, device=world.device)
    return {
        "all_reduce": lambda: dist.all_reduce(whole),
        "all_gather": lambda: dist.all_gather_into_tensor(whole, part),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole),
    }[name]


def seconds_of(act: Callable[[], object], world: World) -> float:
    """Returns the shortest time of several rounds."""
    times = []
    for _ in range(_ROUNDS + 1):  # the first one opens connections
        dist.barrier()
        synchronize(world.device)
        began = time.perf_counter()
        act()
        synchronize(world.device)
        times.append(time.perf_counter() - began)
    return min(times[1:])
