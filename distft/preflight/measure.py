"""What the ranks of an allocation do before the run itself: they measure, all at the same time, for seconds each.

Trap: a node that is slow now and then shows its full speed in a short stretch, and one that shares its cores is slow in
any single one. So a rate is the best of a few stretches, each long enough for what slows a node to come round.
"""

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from distft.preflight.gpu import troubles
from distft.preflight.judge import Node
from distft.run import RunFolder, write_json
from distft.runtime import heartbeat
from distft.runtime.process_group import World, texts_of_all

_STRETCHES, _SECONDS = 3, 0.7
_SIDE = {"cpu": 768}  # of the matrices; an accelerator needs larger ones to be busy
_SIDE_OF_ACCELERATOR = 8192
_COPIED_BYTES = {"cpu": 2**26}
_COPIED_BYTES_OF_ACCELERATOR = 2**30
_DISK_BYTES = 2**26
_REDUCED_BYTES, _REDUCES = 2**23, 5


def work(run: RunFolder, attempt: int, world: World) -> None:
    """Measures this process's share, and on rank 0 writes RUN/figures.json: what each node came to."""
    mine: dict[str, Any] = {"name": node_name(), "rates": {}, "pairs": {}}
    rates = mine["rates"]
    heartbeat.enter("evaluation")
    dist.barrier()
    mine["clock"] = time.time()
    print(f"measuring on {mine['name']}")
    rates["matrix product"] = matrix_product(world.device)
    dist.barrier()
    rates["memory"] = copying(world.device)
    if world.local_rank == 0:
        rates["disk"] = writing(run.path)
        found = troubles()
        mine["troubles"] = [f"GPU {each.gpu}: {each.what}" for each in found if each.is_fatal]
        mine["notes"] = [f"GPU {each.gpu}: {each.what}" for each in found if not each.is_fatal]
    heartbeat.enter("evaluation")
    nodes = [range(first, first + world.local_size) for first in range(0, world.size, world.local_size)]
    if world.local_size > 1:
        rates["all-reduce in the node"] = reduce_in(nodes, world)
    mine["pairs"] = reduce_in_pairs(nodes, world)
    told = [json.loads(text) for text in texts_of_all(json.dumps(mine), world)]
    if world.is_first:
        figures = [node_of([told[rank] for rank in ranks], world.device.type != "cpu") for ranks in nodes]
        names = [figure.name for figure in figures]
        figures = [asdict(each) | {"pairs": {names[int(i)]: v for i, v in each.pairs.items()}} for each in figures]
        write_json(run.path / "figures.json", figures)
        run.write_status(state="completed")


def node_name() -> str:
    """Returns what the scheduler calls this node."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def node_of(processes: list[dict[str, Any]], on_accelerator: bool) -> Node:
    """Returns the figures of a node: its slowest process counts, as the others wait for it."""
    first, names = processes[0], {name for process in processes for name in process["rates"]}
    rates = {name: min(each["rates"][name] for each in processes if name in each["rates"]) for name in sorted(names)}
    own = (first["troubles"], first["notes"], first["pairs"])
    return Node(first["name"], rates, first["clock"], *own, on_accelerator=on_accelerator)


def matrix_product(device: torch.device) -> float:
    """Returns GFLOP/s of a product of square matrices, in bf16 on an accelerator and fp32 on a CPU."""
    side = _SIDE.get(device.type, _SIDE_OF_ACCELERATOR)
    kind = torch.float32 if device.type == "cpu" else torch.bfloat16
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    return 2 * side**3 / 1e9 * best_rate(lambda: torch.matmul(a, b), device)


def copying(device: torch.device) -> float:
    """Returns GiB/s that are read and written as memory is copied."""
    size = _COPIED_BYTES.get(device.type, _COPIED_BYTES_OF_ACCELERATOR)
    a = torch.zeros(size, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return 2 * size / 2**30 * best_rate(lambda: b.copy_(a), device)


def writing(folder: Path) -> float:
    """Returns MiB/s of a file that is written and synced on the disk of the run."""
    file, content = folder / f".preflight-{node_name()}", os.urandom(_DISK_BYTES)
    began = time.perf_counter()
    with file.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    seconds = time.perf_counter() - began
    file.unlink()
    return _DISK_BYTES / 2**20 / seconds


def best_rate(act: Callable[[], object], device: torch.device) -> float:
    """Returns how often a second `act` is done, in the best of some stretches."""
    act()
    best = 0.0
    for _ in range(_STRETCHES):
        heartbeat.enter("evaluation")
        _wait_for(device)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < _SECONDS:
            act()
            count += 1
            _wait_for(device)
        best = max(best, count / (time.perf_counter() - began))
    return best


def reduce_in(groups: list[range], world: World) -> float:
    """Returns GiB/s of an all-reduce in the group that this process is in; all groups do it at once."""
    mine = dist.group.WORLD
    for ranks in groups:  # every process makes every group, in the same order
        group = dist.new_group(list(ranks))
        mine = group if world.rank in ranks else mine
    dist.barrier()
    return _reduce(mine, world)


def reduce_in_pairs(nodes: list[range], world: World) -> dict[str, float]:
    """Returns other node's number -> GiB/s of an all-reduce with it, by the first process of each node.

    In a ring, so that each node meets two others, however many there are; no node is in two pairs at a time.
    """
    count, found = len(nodes), {}
    pairs = [(i, (i + 1) % count) for i in range(count if count > 2 else count - 1)]
    rounds = [pairs[0::2], pairs[1::2]] if count % 2 == 0 or count == 1 else [pairs[:-1:2], pairs[1::2], pairs[-1:]]
    for together in rounds:
        mine = None
        for one, other in together:
            ranks = [nodes[one][0], nodes[other][0]]
            group = dist.new_group(ranks)
            if world.rank in ranks:
                mine = group, other if world.rank == ranks[0] else one
        dist.barrier()
        if mine is not None:
            found[str(mine[1])] = _reduce(mine[0], world)
    return found


def _reduce(group: Any, world: World) -> float:
    tensor = torch.zeros(_REDUCED_BYTES // 4, device=world.device)
    dist.all_reduce(tensor, group=group)
    _wait_for(world.device)
    heartbeat.enter("evaluation")
    seconds = []
    for _ in range(_REDUCES):
        began = time.perf_counter()
        dist.all_reduce(tensor, group=group)
        _wait_for(world.device)
        seconds.append(time.perf_counter() - began)
    return _REDUCED_BYTES / 2**30 / min(seconds)


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
