"""Where the seconds of a step go. On an accelerator the work is timed by events on its stream, read when it is done.

Trap: the elapsed time of an event that is not done raises an error, so what is under way belongs to the next reading.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from distft.runtime import heartbeat

Mark = float | torch.Event
Span = tuple[Mark, Mark]


class Clock:
    """Adds up seconds by phase; phases do not overlap."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.now = ""  # the phase under way
        self._spans: list[tuple[str, Span]] = []

    @contextmanager
    def phase(self, name: str, on_host: bool = False) -> Iterator[None]:
        """Times what is done within. on_host: by this process's own clock, where it waits rather than computes."""
        begun = self.mark(on_host)
        self.now = name
        with heartbeat.during(name):
            yield
        self.now = ""
        self._spans.append((name, (begun, self.mark(on_host))))

    def take(self) -> dict[str, float]:
        """Returns the seconds of each phase that ended since the last call; what the device has still to do is left
        for the next one."""
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
        """Returns this moment; of the device, where it has a stream of work."""
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
    """The seconds that this process itself works in a step, without its waits for others: only they show who is slow.

    On a CPU the host works, and the heartbeat counts. On an accelerator the host only launches: there the forward of
    each block is timed on the device's stream, from when its weights are gathered; no collective lies in between.
    Backward and update are not told there, since the device waits for others inside of them.
    """

    def __init__(self, blocks: Iterable[nn.Module], clock: Clock) -> None:
        """blocks: with the strategy's own hooks in place, between which these come."""
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
        """Returns seconds by phase of heartbeat.WORK, and the cost of the work; called once a step, before its update.

        cost: operations of this step's micro-batches. On an accelerator the forwards, and the cost returned, are those
        of the step before, which the device has done: an event is read without waiting for it.
        """
        seconds = heartbeat.worked()
        if self.clock.device.type == "cpu":
            return seconds, cost
        (spans, cost), self._before = self._before, (self._spans, cost)
        self._spans = []
        forward = sum(map(seconds_of, spans))
        told = {"data": seconds[heartbeat.WORK.index("data")], "forward": forward}
        return [told.get(phase, 0.0) for phase in heartbeat.WORK], cost

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, *_: Any) -> None:
        if self.clock.now == "forward":  # neither an evaluation nor a forward that backward makes again
            self._begun = self.clock.mark()

    def _end(self, *_: Any) -> None:
        if self.clock.now == "forward":
            self._spans.append((self._begun, self.clock.mark()))
