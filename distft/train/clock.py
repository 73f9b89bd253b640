"""Where the seconds of a step go. On an accelerator the work is timed by events on its stream, read when it is done."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from distft.runtime import heartbeat

Mark = float | torch.Event


class Clock:
    """Adds up seconds by phase; phases do not overlap."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._spans: list[tuple[str, Mark, Mark]] = []

    @contextmanager
    def phase(self, name: str, on_host: bool = False) -> Iterator[None]:
        """Times what is done within. on_host: by this process's own clock, where it waits rather than computes."""
        begun = self._mark(on_host)
        with heartbeat.during(name):
            yield
        self._spans.append((name, begun, self._mark(on_host)))

    def take(self) -> dict[str, float]:
        """Returns the seconds of each phase since the last call; the device must have done the work."""
        seconds: defaultdict[str, float] = defaultdict(float)
        for name, begun, ended in self._spans:
            if isinstance(begun, torch.Event):
                assert isinstance(ended, torch.Event)
                seconds[name] += begun.elapsed_time(ended) / 1000
            else:
                assert isinstance(ended, float)
                seconds[name] += ended - begun
        self._spans.clear()
        return dict(seconds)

    def _mark(self, on_host: bool) -> Mark:
        if on_host or self.device.type == "cpu":
            return time.perf_counter()
        event = torch.Event(self.device, enable_timing=True)
        event.record()
        return event
