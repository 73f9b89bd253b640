"""The ranks of a measured run: steps of a random model, made of the worker's parts, without checkpoints.

Weights are initialized on the device: on a CPU that takes minutes for 8 billion, and their values do not matter.

Trap: the profiler synchronizes with the device when it starts and stops, so only events within marked steps count.
"""

import gc
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from distft.config import Config
from distft.models.flops import Flops
from distft.optim.groups import set_learning_rate
from distft.prove.jobs import MEASURED, TRACED, WARM
from distft.run import RunFolder, write_json
from distft.runtime import heartbeat
from distft.runtime.determinism import seed_for
from distft.runtime.device import compute_dtype, peak_gib, synchronize
from distft.runtime.process_group import World, texts_of_all
from distft.strategies.engine import Engine
from distft.train.feed import Feed, Prefetch
from distft.train.step import StepHooks, train_step
from distft.train.timing import peak_of
from distft.worker import begin, make_engine, make_feed, make_skeleton

MARK = "distft.prove.step"
_ON_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
_CALLS = {"cuda_runtime", "cuda_driver", "xpu_runtime", "privateuse1_runtime"}
_WAITS = "Synchronize"  # in the names of calls; a query of an event returns at once
_BLOCKING_COPY = ("cudaMemcpy", "hipMemcpyWithStream")  # whole names: without Async the host waits

KINDS = {  # of kernels, by a part of their names; the first that fits
    "communication": ("nccl", "rccl"),
    "attention": ("flash", "fmha", "sdpa", "attention", "attn"),
    "products": ("gemm", "nvjet", "cutlass", "s16816", "wgmma", "cublas", "splitk"),
    "optimizer": ("adam", "multi_tensor"),
    "copies": ("memcpy", "memset", "copy", "cat", "fill"),
    "compiled": ("triton",),
}

Event = Mapping[str, Any]  # of a Chrome trace: its keys depend on the kind of event


@dataclass(frozen=True)
class Found:
    """The content of a trace; seconds are sums over all marked steps."""

    steps: int
    waits: dict[str, int]  # calls of the training thread that wait for the device
    waits_elsewhere: int  # calls of other threads
    busy_seconds: float
    span_seconds: float  # from the first kernel to the end of the last
    kinds: dict[str, float]  # kind of kernel -> seconds
    longest: list[tuple[str, float, int]]  # kernel, seconds, calls

    @property
    def idle_share(self) -> float | None:
        return 1 - self.busy_seconds / self.span_seconds if self.span_seconds else None

    @property
    def waits_per_step(self) -> float:
        return sum(self.waits.values()) / self.steps


def read_trace(events: Iterable[Event], longest: int = 12) -> Found:
    """Summarizes the events of a Chrome trace; ValueError when no step is marked in them."""
    timed = [event for event in events if event.get("ph", "X") == "X" and "dur" in event]
    marks = [event for event in timed if event["name"] == MARK and event.get("cat") == "user_annotation"]
    if not marks:
        raise ValueError("the trace has no marked step")
    thread = marks[0]["tid"]
    calls = [event for event in timed if event.get("cat") in _CALLS and waits(event["name"]) and inside(event, marks)]
    mine = Counter(event["name"] for event in calls if event["tid"] == thread)
    kernels = of_device(timed, marks)
    seconds: defaultdict[str, float] = defaultdict(float)
    number: Counter[str] = Counter()
    kinds: defaultdict[str, float] = defaultdict(float)
    for event in kernels:
        name = event["name"][:100]
        seconds[name] += event["dur"] / 1e6
        number[name] += 1
        kinds[kind_of(name)] += event["dur"] / 1e6
    first = min((event["ts"] for event in kernels), default=0.0)
    last = max((event["ts"] + event["dur"] for event in kernels), default=0.0)
    ranked = sorted(seconds, key=lambda name: -seconds[name])[:longest]
    return Found(
        steps=len(marks),
        waits=dict(mine),
        waits_elsewhere=len(calls) - sum(mine.values()),
        busy_seconds=covered(kernels) / 1e6,
        span_seconds=(last - first) / 1e6,
        kinds=dict(kinds),
        longest=[(name, seconds[name], number[name]) for name in ranked],
    )


def waits(name: str) -> bool:
    """Returns whether a call of the runtime blocks the host until the device is done."""
    return _WAITS in name or name in _BLOCKING_COPY


def inside(event: Event, marks: Sequence[Event]) -> bool:
    return any(mark["ts"] <= event["ts"] <= mark["ts"] + mark["dur"] for mark in marks)


def of_device(timed: Sequence[Event], marks: Sequence[Event]) -> list[Event]:
    """Returns the kernels that the marked steps launched.

    Kernels run later than they are launched, so the time of the launch decides, where the trace connects both.
    """
    launched = {
        event["args"]["correlation"]: event
        for event in timed
        if event.get("cat") in _CALLS and "correlation" in event.get("args", {})
    }
    found = []
    for event in timed:
        if event.get("cat") in _ON_DEVICE:
            launch = launched.get(event.get("args", {}).get("correlation"))
            if inside(launch or event, marks):
                found.append(event)
    return found


def covered(events: Iterable[Event]) -> float:
    """Returns the time during which at least one event was active."""
    total, end = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: event["ts"]):
        stop = event["ts"] + event["dur"]
        total += max(0.0, stop - max(event["ts"], end))
        end = max(end, stop)
    return total


def kind_of(name: str) -> str:
    lower = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in lower for part in parts)), "other")


_SPREAD = 0.02  # standard deviation of the weights, as usual for such models


def work(run: RunFolder, attempt: int, world: World) -> None:
    """Writes measured.json: speed, memory and host waits of steady steps, over all processes."""
    began = time.monotonic()
    started, attention = begin(run, attempt, world)
    config, plan = started.config, started.plan
    model = make_skeleton(config, plan)
    feed = make_feed(config, plan, Flops.of(model), world)
    held_before = held_bytes(world.device)
    engine = make_engine(config, plan, world)
    draw(engine, config.seed)
    ready = time.monotonic() - began
    heartbeat.enter("evaluation")
    mine = {"ready_seconds": ready, **steps(engine, feed, config, world, held_before, run.path)}
    gathered = [json.loads(text) for text in texts_of_all(json.dumps(mine), world)]
    if world.is_first:
        dtype = compute_dtype(config.train.precision, world.device)
        together = {key: max(each[key] for each in gathered) for key in ("peak_gib", "reserved_gib", "held_bytes")}
        forwards = 3.0 if plan.adapters is None else 2.0  # without gradients of frozen weights
        timed = range(WARM + 1, feed.steps - TRACED + 1)
        totals = {
            "steps": len(timed),
            "tokens": sum(feed.num_tokens(step) for step in timed),
            "flops": forwards * sum(feed.forward_flops(step) for step in timed),
            "processes": world.size,
        }
        peak = peak_of(world.device, dtype) if world.device.type != "cpu" else None
        about = {"peak_flops": peak and peak.flops, "peak_source": peak and peak.source}
        effective = {**engine.effective(), "attention": attention.in_force}
        write_json(run.path / MEASURED, {**gathered[0], **together, **totals, **about, "effective": effective})
        run.write_status(state="completed")


@torch.no_grad()
def draw(engine: Engine, seed: int) -> None:
    """Initializes every weight on its device; replicas are equal, since the seed depends on name and position only."""
    for piece in engine.pieces():
        start = getattr(piece.region, "start", 0)
        torch.manual_seed(seed_for(seed, "init", piece.name, start))
        part = piece.data()
        if len(piece.shape) < 2:
            part.fill_(0.0 if piece.name.endswith("bias") else 1.0)
        elif piece.name.endswith("lora_B.weight"):
            part.zero_()
        else:
            part.normal_(0.0, _SPREAD)
    engine.refresh()


class Traced(TypedDict, total=False):
    """What a trace shows of two steady steps; nothing on a CPU."""

    waits_per_step: float
    waits: Mapping[str, int]
    waits_elsewhere: float
    idle_share: float | None
    kinds: Mapping[str, float]  # seconds
    longest: Sequence[Sequence[object]]  # kernels: name, seconds, calls


def steps(
    engine: Engine, feed: Feed, config: Config, world: World, held_before: int, folder: Path
) -> Mapping[str, object]:
    """Trains all steps of the feed: WARM steps, memory being read in the last of them, then timed and traced ones."""
    engine.train(True)
    losses, timed = [], feed.steps - WARM - TRACED
    held = [0]

    def look() -> None:
        held[0] = held_bytes(world.device) - held_before

    with closing(Prefetch(feed)) as ahead:

        def make(step: int, before_update: Callable[[], object] = tuple) -> None:
            heartbeat.begin_step(step)
            set_learning_rate(engine.optimizer, 1.0)
            seed, limit = seed_for(config.seed, "step", step), config.train.max_grad_norm
            batches, targets = ahead.batches(step), feed.num_targets(step)
            losses.append(
                train_step(engine, batches, targets, world, limit, seed, StepHooks(before_update=before_update)).loss
            )

        began = time.monotonic()
        make(1)
        first = time.monotonic() - began
        for step in range(2, WARM + 1):
            make(step, look if step == WARM else tuple)
        synchronize(world.device)
        began = time.perf_counter()
        for step in range(WARM + 1, WARM + timed + 1):
            make(step)
        synchronize(world.device)
        seconds = time.perf_counter() - began
        found: Traced = {}
        with traced(world, folder, found):
            for step in range(WARM + timed + 1, feed.steps + 1):
                with record_function(MARK):
                    make(step)
    reserved = torch.accelerator.max_memory_reserved(world.device) / 2**30 if world.device.type != "cpu" else 0.0
    memory = {"peak_gib": peak_gib(world.device), "reserved_gib": reserved, "held_bytes": held[0]}
    return {"first_step_seconds": first, "seconds": seconds, "losses": losses, **memory, **found}


@contextmanager
def traced(world: World, folder: Path, found: Traced) -> Iterator[None]:
    """Traces the steps within the context and adds the summary to `found`; does nothing on a CPU."""
    if world.device.type == "cpu":
        yield
        return
    activities = [ProfilerActivity.CPU, getattr(ProfilerActivity, world.device.type.upper())]
    with profile(activities=activities) as profiler:
        yield
        synchronize(world.device)
    file = folder / f"trace-{world.rank}.json"
    profiler.export_chrome_trace(str(file))
    said = read_trace(json.loads(file.read_text())["traceEvents"])
    found["waits_per_step"], found["waits"] = said.waits_per_step, said.waits
    found["waits_elsewhere"] = said.waits_elsewhere
    found["idle_share"], found["kinds"], found["longest"] = said.idle_share, said.kinds, said.longest


def held_bytes(device: torch.device) -> int:
    """Returns the bytes of live tensors: the allocator's count, on a CPU the sum of all storages that Python knows."""
    if device.type != "cpu":
        return torch.accelerator.memory_allocated(device)
    gc.collect()
    storages: dict[int, int] = {}
    for each in gc.get_objects():
        if isinstance(each, torch.Tensor) and type(each) in (torch.Tensor, torch.nn.Parameter) and not each.is_meta:
            storage = each.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
