"""The same bits from the same inputs on the same machine: every switch for that, and what is in force.

Trap: torch raises at the first operation that has no deterministic form. The variables are read when a library first
needs them: cuBLAS and NCCL at the first use of a device. Not run on a GPU yet.
"""

import os
from typing import Any

import torch
import torch.utils.deterministic

VARIABLES = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS picks workspaces by stream otherwise
    "NCCL_NVLS_ENABLE": "0",  # NVSwitch adds in the order in which values arrive
    "FLASH_ATTENTION_DETERMINISTIC": "1",  # read by transformers; the backward pass adds atomically otherwise
}

_memory: Any = torch.utils.deterministic  # its one switch is a property of the module, which pyright does not see


def make_deterministic() -> None:
    """Sets every switch; call it before a device is used."""
    os.environ.update(VARIABLES)
    torch.use_deterministic_algorithms(True)
    _memory.fill_uninitialized_memory = True
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def in_force() -> dict[str, object]:
    """Returns the switches as the libraries have them, whether they were set or not."""
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill_uninitialized_memory": _memory.fill_uninitialized_memory,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        **{name: os.environ.get(name) for name in VARIABLES},
    }
