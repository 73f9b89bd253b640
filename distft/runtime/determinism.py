"""Determinism: seeds as pure functions, the switches for deterministic kernels, and their effective values.

Trap: login nodes import this module, so torch is imported inside functions. torch raises an error at the first
operation without a deterministic form. Libraries read the variables when they first need them: cuBLAS and NCCL at the
first use of a device. Not tested on a GPU yet.
"""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
import os
from typing import Any


def seed_for(seed: int, *words: object) -> int:
    """Returns a 63-bit seed that is a pure function of the run's seed and the words."""
    text = "\x1f".join(str(word) for word in (seed, *words))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def splitmix64(numbers: "np.ndarray") -> "np.ndarray":
    """Returns a 64-bit hash of each number, uint64 [N]: the output function of splitmix64, a bijection.

    Pure integer arithmetic, so the same bits with every library version. In place: `numbers` is overwritten.
    Source: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, 2014, with Stafford's constants.
    """
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers ^= numbers >> numbers.dtype.type(shift)
        numbers *= numbers.dtype.type(factor)
    numbers ^= numbers >> numbers.dtype.type(31)
    return numbers


VARIABLES = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS picks workspaces by stream otherwise
    "NCCL_NVLS_ENABLE": "0",  # NVSwitch adds in the order in which values arrive
    "FLASH_ATTENTION_DETERMINISTIC": "1",  # read by transformers; the backward pass adds atomically otherwise
}


def make_deterministic() -> None:
    """Sets every switch; call it before a device is used."""
    import torch

    os.environ.update(VARIABLES)
    torch.use_deterministic_algorithms(True)
    _filling().fill_uninitialized_memory = True
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def effective_switches() -> dict[str, object]:
    """Returns the effective values of the switches, read from the libraries."""
    import torch

    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill_uninitialized_memory": _filling().fill_uninitialized_memory,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        **{name: os.environ.get(name) for name in VARIABLES},
    }


def _filling() -> Any:
    """Returns torch.utils.deterministic; its one switch is a property that pyright does not see."""
    import torch.utils.deterministic

    return torch.utils.deterministic
