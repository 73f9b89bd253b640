"""Whether the processes of a run have the same software, and what environment each has: a run on several machines may
meet another Python, another package or another variable on each.
"""

import json
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any

from distft.compat.packages import version_of
from distft.runtime.environment import code_of, recorded
from distft.runtime.process_group import World, texts_of_all

MAIN_PACKAGES = ("distft", "torch", "deepspeed", "transformers", "tokenizers", "datasets", "peft", "safetensors")


def compare(world: World) -> dict[str, Any]:
    """Returns the environment of every rank; RuntimeError, on all of them, when their software differs."""
    mine = {"host": socket.gethostname(), "variables": recorded(os.environ)}
    mine["software"] = software() if world.local_rank == 0 else {}
    every = [json.loads(text) for text in texts_of_all(json.dumps(mine), world)]
    first = every[0]
    for rank, other in enumerate(every):
        for key in (key for key, value in other["software"].items() if value != first["software"][key]):
            raise RuntimeError(
                f"rank {rank} on {other['host']} has {key} {other['software'][key]}, rank 0 on {first['host']} has "
                f"{first['software'][key]}. Try: one environment on a disk that all nodes share"
            )
    return {"software": first["software"], "variables": first["variables"], "ranks": list(map(_own(first), every))}


def software() -> dict[str, str]:
    """Returns what must be the same: Python, the packages that compute, and the commit of this code."""
    git = code_of()
    found = {name: version_of(name) or "not installed" for name in MAIN_PACKAGES}
    return {"python": sys.version.split()[0], **found, "commit": str(git["commit"] if git else None)}


def _own(first: Mapping[str, Any]) -> Any:
    """Returns a function that leaves of a rank's environment what differs from the first's."""

    def own(rank: Mapping[str, Any]) -> dict[str, Any]:
        names = sorted({*first["variables"], *rank["variables"]})
        differing = {name: rank["variables"].get(name) for name in names}
        kept = {name: value for name, value in differing.items() if value != first["variables"].get(name)}
        return {"host": rank["host"], "variables": kept}

    return own
