"""Forks many ranks from one process that has imported everything."""

import os
import traceback
from collections.abc import Callable

import torch

from distft.runtime.process_group import World, process_group
from tests.support.ranks import free_port


def fork_ranks(world: int, work: Callable[[World], None]) -> None:
    """Runs `work` on `world` gloo processes of one thread each; this process must not have a process group yet.

    RuntimeError if one of them fails.
    """
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    children = [_fork(rank, world, work) for rank in range(world)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        raise RuntimeError(f"the ranks ended with {codes}")


def _fork(rank: int, world: int, work: Callable[[World], None]) -> int:
    child = os.fork()
    if child:
        return child
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}
    try:
        with process_group() as joined:
            work(joined)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
