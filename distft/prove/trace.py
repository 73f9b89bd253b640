"""What a trace of torch's profiler says of the device: when it computed, when it idled, and where the host waited.

Only what lies within the marked steps counts: the profiler itself waits for the device when it begins and ends.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

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

Event = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """Seconds are those of all marked steps together."""

    steps: int
    waits: dict[str, int]  # calls of the training thread that wait for the device
    waits_elsewhere: int  # of other threads
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
    """Returns what the events of a Chrome trace say; ValueError when no step is marked in them."""
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
    """Tells whether a call of the runtime keeps the host until the device is there."""
    return _WAITS in name or name in _BLOCKING_COPY


def inside(event: Event, marks: Sequence[Event]) -> bool:
    return any(mark["ts"] <= event["ts"] <= mark["ts"] + mark["dur"] for mark in marks)


def of_device(timed: Sequence[Event], marks: Sequence[Event]) -> list[Event]:
    """Returns what ran on the device from the first marked step's launches to those of the last.

    Kernels run later than they are launched: each is taken by the time of its launch, where the trace connects them.
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
    """Returns how long at least one of the events was going on."""
    total, end = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: event["ts"]):
        stop = event["ts"] + event["dur"]
        total += max(0.0, stop - max(event["ts"], end))
        end = max(end, stop)
    return total


def kind_of(name: str) -> str:
    lower = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in lower for part in parts)), "other")
