"""The preflight measurements by the ranks of an allocation, all at the same time, for a few seconds each.

Trap: a node that is slow at times is fast in a short sample, and one that shares its cores is slow in any single
sample. So a rate is the best of a few samples, each long enough to include periodic slowdowns.

The parsers are tested on recorded outputs (tests/doctor/recorded, each with its source). A tool that is missing,
forbidden or slow yields nothing; a field that a GPU does not have reads N/A.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from distft.doctor.node import node_name
from distft.doctor.preflight import Node
from distft.run import RunFolder, write_json
from distft.runtime import heartbeat
from distft.runtime.device import synchronize
from distft.runtime.process_group import World, texts_of_all

_SECONDS_TO_ANSWER = 20
_RECENT_SECONDS = 24 * 3600  # an older Xid was fixed, or it would have recurred
# https://docs.nvidia.com/deploy/xid-errors: the hardware's own, after which the GPU must be reset or replaced
_FATAL_XIDS = {48, 64, 74, 79, 92, 95, 119, 120, 140, 143, *range(144, 151)}
_NOTED_XIDS = {63, 94, 154}
_LINK_XIDS = range(144, 151)  # their messages contain Fatal or Nonfatal
_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([\da-fA-F:.]+)\): (\d+),?\s*(.*)")
_OFF_BUS = re.compile(r"NVRM: The NVIDIA GPU ([\da-fA-F:.]+)")
_SINCE_BOOT = re.compile(r"^\[\s*(\d+\.\d+)\]")
_GPU = re.compile(r"^GPU ([\da-fA-F:.]+)")
_LINK_COUNT = re.compile(r"Link (\d+): (Replay|Recovery|CRC) Errors: (\d+)")


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a GPU."""

    gpu: str  # its index, or its bus id
    what: str
    is_fatal: bool  # no job should use it; otherwise a warning


def kernel_log(text: str, uptime_seconds: float = 0.0) -> Iterator[Trouble]:
    """Yields hardware errors in the output of `dmesg`; those with a timestamp only from the last day."""
    bus = ""
    for line in text.splitlines():
        since = _SINCE_BOOT.match(line)
        if since and uptime_seconds - float(since[1]) > _RECENT_SECONDS:
            continue
        if found := _XID.search(line):
            number, words = int(found[2]), found[3].strip()
            is_fatal = number in _FATAL_XIDS and not (number in _LINK_XIDS and "Nonfatal" in words)
            if is_fatal or number in _NOTED_XIDS or number in _LINK_XIDS:
                yield Trouble(found[1], f"Xid {number}: {words}", is_fatal)
        elif found := _OFF_BUS.search(line):
            bus = found[1]
        elif bus and "fallen off the bus" in line:  # newer drivers print three lines without an Xid
            yield Trouble(bus, "Xid 79: GPU has fallen off the bus", True)
            bus = ""


def memory_errors(text: str) -> Iterator[Trouble]:
    """Yields errors in `nvidia-smi -q -d ECC,ROW_REMAPPER,PAGE_RETIREMENT`, counted since the driver was loaded."""
    for gpu, path, value in _fields(text):
        *sections, name = path
        if "Volatile" in sections and "Uncorrectable" in name and value.isdigit() and int(value):
            yield Trouble(gpu, f"{value} uncorrectable ECC errors ({name})", True)
        elif name == "Remapping Failure Occurred" and value == "Yes":
            yield Trouble(gpu, "a row of its memory could not be remapped", True)
        elif name == "SRAM Threshold Exceeded" and value == "Yes":
            yield Trouble(gpu, "more SRAM errors than its maker allows", True)
        elif (name == "Pending" and "Remapped Rows" in sections and value == "Yes") or (
            name.startswith("Pending Page") and value == "Yes"
        ):
            yield Trouble(gpu, "memory is to be remapped at the next reset of the GPU", False)


def link_errors(text: str) -> Iterator[Trouble]:
    """Yields links with recoveries in `nvidia-smi nvlink -e`, and links that `nvlink -s` reports as down."""
    gpu, links = "", dict[str, list[tuple[str, str]]]()
    for line in text.splitlines():
        if found := re.match(r"GPU (\d+):", line):
            gpu = found[1]
        elif (found := _LINK_COUNT.search(line)) and found[2] == "Recovery" and int(found[3]):
            yield Trouble(gpu, f"NVLink {found[1]} was lost and has recovered {found[3]} times", False)
        elif found := re.search(r"Link (\d+): (<inactive>|[\d.]+ GB/s)", line):
            links.setdefault(gpu, []).append((found[1], found[2]))
    for gpu, states in links.items():
        down = [link for link, state in states if state == "<inactive>"]
        if down and len(down) < len(states):
            yield Trouble(gpu, f"NVLink {', '.join(down)} is down", True)


def diagnosis(text: str) -> Iterator[Trouble]:
    """Yields the failed tests of `dcgmi diag -r 1 -j`; DCGM versions 3 and 4 have different formats.

    Failures under Deployment are about the node's setup (persistence mode, for example) and only warnings.
    """
    start = text.find("{")
    try:
        gathered: Any = json.loads(text[start : text.rfind("}") + 1]) if start >= 0 else {}
    except ValueError:
        return
    of = gathered.get("DCGM Diagnostic") or gathered.get("DCGM GPU Diagnostic") or {}
    for category in of.get("test_categories") or []:
        for test in filter(None, category.get("tests") or []):
            for result in test.get("results") or []:
                if result.get("status", "").lower() == "fail":
                    gpu = str(result.get("entity_id", result.get("gpu_id", result.get("gpu_ids", ""))))
                    words = [each["warning"] if isinstance(each, dict) else each for each in _warnings(result)]
                    what = f"DCGM's {test.get('name')} failed" + (f": {words[0]}" if words else "")
                    yield Trouble(gpu, what, category.get("category") != "Deployment")


def troubles() -> list[Trouble]:
    """Returns the errors reported by this node's tools; empty without tools."""
    found = []
    if shutil.which("nvidia-smi"):
        found += memory_errors(_said("nvidia-smi", "-q", "-d", "ECC,ROW_REMAPPER,PAGE_RETIREMENT"))
        found += link_errors(_said("nvidia-smi", "nvlink", "-e"))
        found += link_errors(_said("nvidia-smi", "nvlink", "-s"))
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        found += kernel_log(_said("dmesg"), uptime)
    if shutil.which("dcgmi"):
        found += diagnosis(_said("dcgmi", "diag", "-r", "1", "-j"))
    return list(dict.fromkeys(found))


def _warnings(result: Mapping[str, Any]) -> list[Any]:  # a text, a list of texts or of mappings, by DCGM's version
    words = result.get("warnings") or []
    return [words] if isinstance(words, str) else words


def _fields(text: str) -> Iterator[tuple[str, list[str], str]]:
    """Yields GPU, path and value of each `name : value` line of an indented report."""
    gpu, above = "", list[tuple[int, str]]()
    for line in text.splitlines():
        if found := _GPU.match(line):
            gpu, above = found[1], []
            continue
        name, colon, value = line.partition(" : ")
        indent, name = len(name) - len(name.lstrip()), name.strip()
        above = [each for each in above if each[0] < indent]
        if colon:
            yield gpu, [*(each[1] for each in above), name], value.strip()
        elif name:
            above.append((indent, name))


def _said(*command: str) -> str:
    """Returns the output of a program, empty when it does not finish in time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS_TO_ANSWER, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


_STRETCHES, _SECONDS = 3, 0.7
_SIDE = {"cpu": 768}  # of the matrices; an accelerator needs larger ones
_SIDE_OF_ACCELERATOR = 8192
_COPIED_BYTES = {"cpu": 2**26}
_COPIED_BYTES_OF_ACCELERATOR = 2**30
_DISK_BYTES = 2**26
_REDUCED_BYTES, _REDUCES = 2**23, 5


def work(run: RunFolder, attempt: int, world: World) -> None:
    """Measures this process's share; rank 0 writes RUN/figures.json with the figures of each node."""
    heartbeat.enter("evaluation")
    dist.barrier()
    mine = Node(node_name(), rates={}, clock=time.time(), on_accelerator=world.device.type != "cpu")
    print(f"measuring on {mine.name}")
    rates = {"matrix product": matrix_product(world.device)}
    dist.barrier()
    rates["memory"] = copying(world.device)
    if world.local_rank == 0:
        rates["disk"] = writing(run.path)
        found = troubles()
        fatal = [f"GPU {each.gpu}: {each.what}" for each in found if each.is_fatal]
        mine = replace(mine, troubles=fatal, notes=[f"GPU {e.gpu}: {e.what}" for e in found if not e.is_fatal])
    heartbeat.enter("evaluation")
    nodes = [range(first, first + world.local_size) for first in range(0, world.size, world.local_size)]
    if world.local_size > 1:
        rates["all-reduce in the node"] = reduce_in(nodes, world)
    mine = replace(mine, rates=rates, pairs=reduce_in_pairs(nodes, world))
    gathered = [Node(**json.loads(text)) for text in texts_of_all(json.dumps(asdict(mine)), world)]
    if world.is_first:
        figures = [node_of([gathered[rank] for rank in ranks]) for ranks in nodes]
        for i, each in enumerate(figures):
            figures[i] = replace(each, pairs={figures[int(j)].name: rate for j, rate in each.pairs.items()})
        write_json(run.path / "figures.json", [asdict(each) for each in figures])
        run.write_status(state="completed")


def node_of(processes: Sequence[Node]) -> Node:
    """Returns the figures of a node: those of its slowest process, since the others wait for it."""
    names = sorted({name for process in processes for name in process.rates})
    return replace(
        processes[0], rates={name: min(p.rates[name] for p in processes if name in p.rates) for name in names}
    )


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
    """Returns the calls of `act` per second, in the best of several samples."""
    act()
    best = 0.0
    for _ in range(_STRETCHES):
        heartbeat.enter("evaluation")
        synchronize(device)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < _SECONDS:
            act()
            count += 1
            synchronize(device)
        best = max(best, count / (time.perf_counter() - began))
    return best


def reduce_in(groups: list[range], world: World) -> float:
    """Returns GiB/s of an all-reduce in this process's group; all groups run at the same time."""
    mine = dist.group.WORLD
    for ranks in groups:  # every process creates every group, in the same order
        group = dist.new_group(list(ranks))
        mine = group if world.rank in ranks else mine
    dist.barrier()
    return _reduce(mine, world)


def reduce_in_pairs(nodes: list[range], world: World) -> dict[str, float]:
    """Returns index of the other node -> GiB/s of an all-reduce with it, by the first process of each node.

    The pairs form a ring, so each node has at most two partners; no node is in two pairs at a time.
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
    synchronize(world.device)
    heartbeat.enter("evaluation")
    seconds = []
    for _ in range(_REDUCES):
        began = time.perf_counter()
        dist.all_reduce(tensor, group=group)
        synchronize(world.device)
        seconds.append(time.perf_counter() - began)
    return _REDUCED_BYTES / 2**30 / min(seconds)
