"""The compute device: dtype by precision, exact matrix products, peak memory, garbage collection."""

import gc
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Returns the dtype for `fp32`, `bf16`, or `auto`: bf16 where the device multiplies it natively, else fp32."""
    if precision == "auto":
        native = device.type != "cpu" and torch.accelerator.is_available() and _bf16_native(device)
        return torch.bfloat16 if native else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def exact_products() -> dict[str, object]:
    """Computes fp32 products in fp32 and accumulates bf16 products in fp32 on devices that default to less; returns
    the effective settings. Not tested on such a device yet."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    return {
        "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
        "bf16_reduced_precision_reduction": torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def _bf16_native(device: torch.device) -> bool:
    """Returns whether an accelerator has bf16 units (CUDA: Ampere and later). Not tested on a GPU yet."""
    return torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else True


COLLECT_EVERY = 50  # steps


def peak_gib(device: torch.device) -> float:
    """Returns the peak memory in GiB: allocated on an accelerator, resident on a CPU."""
    if device.type == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return torch.accelerator.max_memory_allocated(device) / 2**30


def free_memory(device: torch.device) -> None:
    """Collects what nothing refers to, and returns an accelerator's unused blocks."""
    gc.collect()
    if device.type != "cpu":
        torch.accelerator.empty_cache()


def synchronize(device: torch.device) -> None:
    """Waits until the device has done all work that it was given; returns at once on a CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def memory_of(device: torch.device) -> dict[str, float]:
    """Returns the memory metrics of metrics.jsonl.

    On an accelerator also the memory reserved by the allocator, which is what runs out, and the allocator's retries:
    each one frees the cache and waits for the device, so a growing number means that memory is short.
    """
    figures = {"peak_memory_gib": peak_gib(device)}
    if device.type != "cpu":
        statistics = torch.accelerator.memory_stats(device)
        figures["reserved_memory_gib"] = torch.accelerator.max_memory_reserved(device) / 2**30
        figures["allocator_retries"] = int(statistics.get("num_alloc_retries", 0))
    return figures


@contextmanager
def collecting() -> Iterator[Callable[[int], None]]:
    """Collects garbage every COLLECT_EVERY steps, on all ranks at once; yields a function to call after each step.

    Python's automatic collection runs on each rank at a different time, and each time all ranks wait.
    """
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()  # existing objects are never scanned again
    gc.disable()

    def after(step: int) -> None:
        if step % COLLECT_EVERY == 0:
            gc.collect()  # all generations, else objects that survive one collection stay for ever

    try:
        yield after
    finally:
        if was_on:
            gc.enable()
