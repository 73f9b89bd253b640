"""Simulates an accelerator's events and streams: recorded work completes when the test says so.

Event times are milliseconds of device time.
"""

from typing import Any

import pytest
import torch


class Device:
    """The work launched on a device, and how much of it has completed."""

    def __init__(self) -> None:
        self.launched = self.done = 0.0

    def launch(self, milliseconds: float) -> None:
        self.launched += milliseconds

    def finish(self) -> None:
        self.done = self.launched


def stand_in(monkeypatch: pytest.MonkeyPatch) -> Device:
    """Replaces torch.Event until the end of the test; an event that is not complete raises torch's own error."""
    device = Device()

    class Event:
        def __init__(self, at: Any = None, enable_timing: bool = False) -> None:
            self.at: float | None = None

        def record(self, stream: Any = None) -> None:
            self.at = device.launched

        def query(self) -> bool:
            assert self.at is not None
            return self.at <= device.done

        def elapsed_time(self, other: "Event") -> float:
            if not (self.query() and other.query()):
                raise RuntimeError("Both events must be completed before calculating elapsed time.")
            assert self.at is not None and other.at is not None
            return other.at - self.at

    monkeypatch.setattr(torch, "Event", Event)
    return device


CUDA_1 = torch.device("cuda", 1)
