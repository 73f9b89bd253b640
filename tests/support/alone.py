"""A process group of one, inside the test's own process."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from distft.runtime.process_group import World
from distft.runtime.stop import SIGNALS


@contextmanager
def alone() -> Iterator[World]:
    """Provides a process group of this process alone, and restores the signal handlers that a rank sets."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield World(0, 1, 0, 1, torch.device("cpu"))
    finally:
        dist.destroy_process_group()
        for number, handler in before.items():
            signal.signal(number, handler)
