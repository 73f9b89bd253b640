"""Timing of a step: seconds per phase, compute seconds per rank, MFU, profile.

Trap: reading the elapsed time of an unfinished event raises an error, so unfinished spans are read in a later step.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity
from torch.profiler import profile as recorded

from distft.data_sheets import sheet_of
from distft.runtime import heartbeat
from distft.runtime.process_group import World

Mark = float | torch.Event
Span = tuple[Mark, Mark]


class Clock:
    """Adds up seconds by phase; phases do not overlap."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.now = ""  # the current phase
        self._spans: list[tuple[str, Span]] = []

    @contextmanager
    def phase(self, name: str, on_host: bool = False) -> Iterator[None]:
        """Times a block. on_host: by the host's clock, where the process waits rather than computes."""
        begun = self.mark(on_host)
        self.now = name
        with heartbeat.during(name):
            yield
        self.now = ""
        self._spans.append((name, (begun, self.mark(on_host))))

    def take(self) -> dict[str, float]:
        """Returns the seconds of each phase finished since the last call; spans that the device has not finished are
        left for the next call."""
        seconds: defaultdict[str, float] = defaultdict(float)
        left = []
        for name, span in self._spans:
            if is_done(span):
                seconds[name] += seconds_of(span)
            else:
                left.append((name, span))
        self._spans = left
        return dict(seconds)

    def mark(self, on_host: bool = False) -> Mark:
        """Returns the current time; on an accelerator an event in its stream."""
        if on_host or self.device.type == "cpu":
            return time.perf_counter()
        event = torch.Event(self.device, enable_timing=True)
        event.record()
        return event


def is_done(span: Span) -> bool:
    ended = span[1]
    return ended.query() if isinstance(ended, torch.Event) else True


def seconds_of(span: Span) -> float:
    begun, ended = span
    if isinstance(begun, torch.Event):
        assert isinstance(ended, torch.Event)
        return begun.elapsed_time(ended) / 1000
    assert isinstance(ended, float)
    return ended - begun


class OwnWork:
    """Compute seconds of this process in a step, without its waits for others: only these show a straggler.

    On a CPU the heartbeat measures the host. On an accelerator the host only launches kernels: the forward of each
    block is timed on the device's stream after its weights are gathered, so no collective lies in between. Backward and
    update are not included there, since the device waits for other ranks inside them.
    """

    def __init__(self, blocks: Iterable[nn.Module], clock: Clock) -> None:
        """blocks: with the strategy's hooks in place; these hooks run between them."""
        self.clock = clock
        self._begun: Mark = 0.0
        self._spans: list[Span] = []
        self._before: tuple[list[Span], float] = ([], 0.0)  # of the step before
        self._hooks: list[Any] = []
        if clock.device.type != "cpu":
            for block in blocks:
                self._hooks.append(block.register_forward_pre_hook(self._begin))
                self._hooks.append(block.register_forward_hook(self._end, prepend=True))

    def of_step(self, cost: float) -> tuple[list[float], float]:
        """Returns seconds by phase of heartbeat.WORK, and the cost of the work; called once per step before its update.

        cost: operations of this step's micro-batches. On an accelerator the forwards, and the cost returned, are those
        of the previous step, which the device has finished: an event is read without waiting for it.
        """
        seconds = heartbeat.worked()
        if self.clock.device.type == "cpu":
            return seconds, cost
        (spans, cost), self._before = self._before, (self._spans, cost)
        self._spans = []
        forward = sum(map(seconds_of, spans))
        known = {"data": seconds[heartbeat.WORK.index("data")], "forward": forward}
        return [known.get(phase, 0.0) for phase in heartbeat.WORK], cost

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, *_: Any) -> None:
        if self.clock.now == "forward":  # neither an evaluation nor a forward that backward makes again
            self._begun = self.clock.mark()

    def _end(self, *_: Any) -> None:
        if self.clock.now == "forward":
            self._spans.append((self._begun, self.clock.mark()))


_SIZES = (256, 512, 1024)  # a CPU without bf16 computes small products faster
_SIZES_OF_ACCELERATOR = (4096, 8192)  # smaller ones do not fill it
_LONG = 0.1  # seconds of a product after which no more are measured: without bf16 units larger ones take seconds
_ROUNDS, _PRODUCTS = 3, 10  # products per round on an accelerator, else launch time dominates


@dataclass(frozen=True)
class Peak:
    """The peak FLOP/s of a process's device, and its source."""

    flops: float  # a second
    source: str


def peak_of(device: torch.device, dtype: torch.dtype) -> Peak:
    """Returns the data sheet's figure for bf16 on a known device, else the best of a few measured products."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        if (sheet := sheet_of(name)) is not None:
            return Peak(sheet.flops, f"data sheet of {name}, dense bf16")
    flops, size = max(_measurements(device, dtype))
    name = str(dtype).removeprefix("torch.")
    return Peak(flops, f"measured {name} product of {size}x{size} matrices, {torch.get_num_threads()} threads")


def _measurements(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[float, int]]:
    """Yields FLOP/s and size of products, larger ones last and while they are quick."""
    for size in _SIZES if device.type == "cpu" else _SIZES_OF_ACCELERATOR:
        for _ in range(_ROUNDS):
            flops = _measured(device, dtype, size)
            yield flops, size
            if 2 * size**3 / flops > _LONG:
                return


def _measured(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Trap: an accelerator multiplies matrices of ones faster than real data, so the matrices are random."""
    random = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, generator=random, device=device).to(dtype) for _ in range(2))
    products = 1 if device.type == "cpu" else _PRODUCTS
    clock = Clock(device)
    result = left @ right
    result[0, 0].item()  # waits for the library's first call
    begun = clock.mark()
    for _ in range(products):
        result = left @ right
    span = begun, clock.mark()
    result[0, 0].item()  # until the device has done it
    return products * 2 * size**3 / seconds_of(span)


@dataclass
class Mfu:
    """Model FLOPs utilisation of a run's processes."""

    peak: Peak
    processes: int
    _warned: bool = field(default=False, init=False)

    def of_step(self, flops: float, seconds: float) -> float | None:
        """Returns the MFU of a step; None where it is above 1, with an error on stderr for the first such step.

        flops: of the global batch, without recomputation and padding.
        """
        share = flops / (seconds * self.processes * self.peak.flops)
        if share <= 1:
            return share
        if not self._warned:
            self._warned = True
            print(
                f"ERROR: an MFU of {share:.0%} cannot be: {flops:.3g} FLOP in {seconds:.3g} s on {self.processes} "
                f"processes of {self.peak.flops:.3g} FLOP/s ({self.peak.source}). One of the two is wrong. Such steps "
                "have no MFU; this is printed once",
                file=sys.stderr,
            )
        return None


TOP = 10
_WARM_UP = 2  # steps before the recorded one


class Profile:
    """Profiles the third step of a process into `folder`."""

    def __init__(self, folder: Path, start_step: int, world: World) -> None:
        self.folder, self.world = folder, world
        self.at = start_step + _WARM_UP + 1

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Profiles the block if this is the step; writes rank-R.json.gz, and rank 0 step-N.md."""
        if step != self.at:
            yield
            return
        on_device = self.world.device.type != "cpu"
        activities = [ProfilerActivity.CPU, *([getattr(ProfilerActivity, self.world.device.type.upper())] * on_device)]
        with recorded(activities=activities) as profiler:
            yield
        self.folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.folder / f"rank-{self.world.rank}.json.gz"))
        if self.world.is_first:
            (self.folder / f"step-{step}.md").write_text(table(profiler.key_averages(), step, on_device))


def table(operations: Any, step: int, on_device: bool) -> str:
    """Returns the most expensive operations by self time, with their share of all operations' time."""
    own = "self_device_time_total" if on_device else "self_cpu_time_total"  # microseconds
    called = [each for each in operations if each.device_type.name == "CPU"]  # kernels are listed a second time
    spent = sorted(((getattr(each, own), each) for each in called), key=lambda pair: -pair[0])
    total = sum(time for time, _ in spent) or 1.0
    where = "its device" if on_device else "the CPU"
    lines = [
        f"The {TOP} most expensive operations of step {step} on rank 0, by self time on {where}",
        "",
        "| operation | calls | seconds | share |",
        "|---|---|---|---|",
        *(f"| {each.key} | {each.count:,} | {time / 1e6:.3f} | {time / total:.1%} |" for time, each in spent[:TOP]),
        "",
        f"All operations: {total / 1e6:.3f} s. The whole trace: rank-0.json.gz (chrome://tracing, ui.perfetto.dev)",
    ]
    return "\n".join(lines) + "\n"
