"""A rank function, named by `work` in a frozen config: it steps until a stop request, on all ranks alike."""

import time
from pathlib import Path

import torch

from distft.run import RunFolder
from distft.runtime.process_group import World, all_reduce_sum
from distft.runtime.stop import listen, requested


def until_stopped(run: RunFolder, attempt: int, world: World) -> None:
    """Ends as preempted at the step border after a signal to any rank, or a request that rank 0 sees."""
    signalled = listen()
    Path(run.path / f"rank-{world.rank}-steps").touch()
    while True:
        asked = bool(signalled() or (world.is_first and requested(run, attempt)))
        if all_reduce_sum(torch.tensor([float(asked)]))[0] > 0:
            break
        time.sleep(0.05)
    if world.is_first:
        run.write_status(state="preempted", step=1)
