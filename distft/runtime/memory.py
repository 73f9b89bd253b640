"""Memory of this process on its device, and when Python looks for garbage."""

import gc
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

COLLECT_EVERY = 50  # steps


def peak_gib(device: torch.device) -> float:
    """Returns the highest memory so far in GiB: allocated on an accelerator, resident on a CPU."""
    if device.type == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return torch.accelerator.max_memory_allocated(device) / 2**30


def memory_of(device: torch.device) -> dict[str, Any]:
    """Returns what metrics.jsonl has of memory.

    On an accelerator also what its allocator has taken from it, which is what runs out, and how often it had to give
    all it kept back to go on: that waits for the device, and a run where it grows is short of memory.
    """
    told: dict[str, Any] = {"peak_memory_gib": peak_gib(device)}
    if device.type != "cpu":
        statistics = torch.accelerator.memory_stats(device)
        told["reserved_memory_gib"] = torch.accelerator.max_memory_reserved(device) / 2**30
        told["allocator_retries"] = int(statistics.get("num_alloc_retries", 0))
    return told


@contextmanager
def collecting() -> Iterator[Callable[[int], None]]:
    """Has garbage collected at set steps only, on all ranks at the same ones; gives the function to call after each.

    Python looks whenever it has made so many objects, on each rank at another time, and each time all ranks wait.
    """
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()  # what is there stays: no collection looks through it again
    gc.disable()

    def after(step: int) -> None:
        if step % COLLECT_EVERY == 0:
            gc.collect()  # all generations: what outlived one collection would else never go

    try:
        yield after
    finally:
        if was_on:
            gc.enable()
