"""torch's process groups: collectives entered, waits for them, and the timeout of each group.

Trap: login nodes import a caller of this module, so torch is looked up in sys.modules instead of imported.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from distft.compat.reach import Reach

_MODULE, _SEEN = "torch.distributed.distributed_c10d", "torch 2.11 to 2.13"
REACHES = (
    Reach(f"{_MODULE}._world", _SEEN, "the process groups of this process"),
    Reach(f"{_MODULE}._World.pg_map", _SEEN, "every process group"),
    Reach(f"{_MODULE}._set_pg_timeout", _SEEN, "meshes and DeepSpeed make groups with a default", ("timeout",)),
    Reach("torch.distributed.ProcessGroup._get_sequence_number_for_group", _SEEN, "counts a group's collectives"),
    Reach("torch.distributed.Work.wait", _SEEN, "replaced, to time the waits of the host"),
)
Wait = Callable[..., Any]


def num_collectives() -> int:
    """Returns the number of collectives that this process has entered, over all of its groups."""
    total = 0
    for group in _groups():
        try:
            total += group._get_sequence_number_for_group()
        except RuntimeError:  # a backend without the counter, or a group being destroyed
            continue
    return total


@contextmanager
def replaced_wait(replacement: Callable[[Wait], Wait]) -> Iterator[None]:
    """Calls a replacement, made from torch's own method, wherever the host waits for a collective inside the block."""
    work = sys.modules["torch.distributed"].Work
    wait = work.wait
    work.wait = replacement(wait)
    try:
        yield
    finally:
        work.wait = wait


def set_timeouts(timeout: timedelta) -> None:
    """Sets the timeout of every process group."""
    for group in _groups():
        sys.modules[_MODULE]._set_pg_timeout(timeout, group)


def _groups() -> list[Any]:
    return list(sys.modules[_MODULE]._world.pg_map)
