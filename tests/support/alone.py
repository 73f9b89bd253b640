"""A world of one process, inside the test's own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from distft.runtime.process_group import World


@contextmanager
def alone() -> Iterator[World]:
    """Gives a process group whose only member is this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield World(0, 1, 0, 1, torch.device("cpu"))
    finally:
        dist.destroy_process_group()
