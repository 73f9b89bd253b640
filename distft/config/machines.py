"""How many machines, and processes on each, the settings of a launcher ask for."""

from collections.abc import Mapping
from typing import Any

from distft.config.accelerators import num_accelerators


def node_range(asked: int | str) -> tuple[int, int]:
    """Returns the fewest and the most nodes: 4 is 4 to 4, `2-4` is 2 to 4."""
    counts = [int(part) for part in str(asked).split("-")]
    return min(counts), max(counts)


def processes_per_node(launcher: Mapping[str, Any]) -> int:
    """Returns the processes of a node; `auto` is one for each accelerator the job asks for, or this machine has."""
    asked = launcher["processes_per_node"]
    if asked != "auto":
        return asked
    if "gpus_per_node" in launcher:  # of the nodes, which this machine may be nothing like
        return num_gpus(launcher["gpus_per_node"]) or 1
    return num_accelerators() or 1


def num_gpus(asked: int | str | None) -> int:
    """Returns the number in `4` or `a100:4`; 0 for none."""
    return int(str(asked).rpartition(":")[2] or 0) if asked else 0
