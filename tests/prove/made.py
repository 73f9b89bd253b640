"""Builds folders and lines for the tests of distft.prove."""

import time
from pathlib import Path
from typing import Any

from distft.prove.place import Machine, Place
from distft.prove.proof import Line

FACTS: dict[str, Any] = {
    "device": "cpu", "name": "a CPU", "devices": 0, "cores": 2, "memory_gib": 8.0, "python": "3.11.7",
    "packages": {"torch": "2.13.0", "transformers": "5.23.0", "deepspeed": "0.19.8"}, "distft": "0.1.0",
    "code": {"commit": "0123456789abcdef", "changed": False}, "time": "2026-11-28T22:00:00+0000",
}  # fmt: skip
ABOUT = {"device": "cpu", "shapes": "small"}


def place(out: Path, seconds: float = 300.0) -> Place:
    return Place(out, Machine("cpu", "a CPU", 0, 2, FACTS), time.monotonic() + seconds)


def line(
    check: str, status: Any = "pass", value: Any = None, unit: str = "", expected: str = "", **detail: Any
) -> Line:
    return Line(check, status, value, unit, expected, 1.0, {**ABOUT, **detail})
