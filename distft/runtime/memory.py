"""Peak memory of this process, on its device."""

import resource

import torch


def peak_gib(device: torch.device) -> float:
    """Returns the highest memory so far in GiB: allocated on an accelerator, resident on a CPU."""
    if device.type == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return torch.accelerator.max_memory_allocated(device) / 2**30
