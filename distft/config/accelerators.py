"""Counts this machine's accelerators without torch, which takes seconds to import.

Trap: CUDA_VISIBLE_DEVICES hides devices from torch but not from /dev.
"""

import os
from pathlib import Path

_HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def num_accelerators(devices: Path = Path("/dev"), system: Path = Path("/sys")) -> int:
    """Returns how many CUDA or ROCm devices torch will see here."""
    found = len(list(devices.glob("nvidia[0-9]*"))) or _num_rocm(devices, system)
    for name in _HIDING:
        if name in os.environ:
            return min(found, len([part for part in os.environ[name].split(",") if part.strip() not in ("", "-1")]))
    return found


def _num_rocm(devices: Path, system: Path) -> int:
    """Counts KFD nodes that are no CPU: theirs is a positive simd_count."""
    if not (devices / "kfd").exists():
        return 0
    nodes = system.glob("class/kfd/kfd/topology/nodes/*/properties")
    return sum(
        any(line.startswith("simd_count ") and line.split()[1] != "0" for line in _lines(node)) for node in nodes
    )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
