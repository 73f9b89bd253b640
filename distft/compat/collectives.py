"""How many collectives this process has entered, as torch counts them for its own checks.

Trap: login nodes import this module's caller, so torch is looked up among the loaded modules and not imported.
"""

import sys

from distft.compat.reach import Reach

_SEEN = "torch 2.11 to 2.13"
REACHES = (
    Reach("torch.distributed.distributed_c10d._world", _SEEN, "its pg_map holds every process group"),
    Reach("torch.distributed.ProcessGroup._get_sequence_number_for_group", _SEEN, "counts a group's collectives"),
)


def entered() -> int:
    """Returns the number of collectives that this process has entered, over all of its groups."""
    distributed = sys.modules["torch.distributed.distributed_c10d"]
    total = 0
    for group in list(distributed._world.pg_map):
        try:
            total += group._get_sequence_number_for_group()
        except RuntimeError:  # a backend without the count, or a group that is being left
            continue
    return total
