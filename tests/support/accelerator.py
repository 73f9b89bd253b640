"""Stands in for an accelerator's events and streams: recorded work is done when the test says so.

Times are the device's own: milliseconds of the work that was launched before.
"""

from typing import Any

import pytest
import torch


class Device:
    """What a device has been given to do, and how much of it is done."""

    def __init__(self) -> None:
        self.launched = self.done = 0.0

    def launch(self, milliseconds: float) -> None:
        self.launched += milliseconds

    def finish(self) -> None:
        self.done = self.launched


def stand_in(monkeypatch: pytest.MonkeyPatch) -> Device:
    """Replaces torch.Event until the end of the test, with torch's own error for an event that is not done."""
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
