"""How many machines, processes on each and threads of these a launcher's settings and the environment ask for."""

import os
from collections.abc import Mapping, MutableMapping
from typing import Any

from distft.config.accelerators import num_accelerators

NUMBERS = ("OMP_NUM_THREADS", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")  # variables


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


def is_positive(text: str) -> bool:
    """Tells whether a variable's text is a whole number of at least 1."""
    return text.strip().isdecimal() and int(text) > 0


def wrong_numbers(variables: MutableMapping[str, str] = os.environ) -> list[str]:
    """Returns a line for each variable that a library here reads as a number and that holds none.

    One that is empty counts as not set and is removed: int("") is an error of its library, without its name.
    """
    lines = []
    for name in NUMBERS:
        text = variables.get(name, "1")
        if not text.strip():
            del variables[name]
        elif not is_positive(text.partition(",")[0] if name == "OMP_NUM_THREADS" else text):
            lines.append(f"{name}={text} is not a whole number of at least 1. Try: unset {name}")
    return lines
