"""Groups of processes that save step after step until they are killed: `python -m tests.checkpoint.kills.group`.

They are forked from this process, which has imported everything, so a group is there in a fraction of a second. It
reads a JSON of Life from a line, and says on lines of its own what happens; the next line says that all are killed.
"""

import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from distft.checkpoint.retention import Retention
from distft.checkpoint.save import Saver, Snapshot
from distft.runtime.process import die_with_parent
from distft.runtime.process_group import World
from tests.checkpoint.counted import Counted

KEEP, BEST_EVERY = 2, 3
ROWS = 4096
STATE = 6 * ROWS * 64 * 4  # bytes, without the few that are no matrix


@dataclass(frozen=True)
class Life:
    """A group that continues from `start` and saves every step after it."""

    checkpoints: str
    world: int
    background: bool
    start: int
    attempt: int

    def text(self) -> str:
        return json.dumps(asdict(self))


def say(text: str) -> None:
    """Says a line at once and whole, though other processes and a SIGKILL may come between."""
    os.write(1, f"{text}\n".encode())


def save_for_ever(life: Life, world: World) -> None:
    engine: Any = Counted(world, ROWS)
    snapshot = Snapshot(world.device) if life.background else None
    saver = Saver(Path(life.checkpoints), Retention(KEEP), world, life.start, snapshot)
    dist.barrier()
    step = life.start
    while True:
        step += 1
        engine.become(step, life.attempt)
        if world.is_first:
            say(f"starts {step}")
        saver.start(engine, step, {"attempt": life.attempt}, is_best=step % BEST_EVERY == 0)
        saver.wait_copied()
        while life.background and not saver.is_written:
            engine.become(-step, life.attempt)  # trains on: what is being saved must not change with it
        saver.finish()
        say(f"saved {step}")


def be_rank(rank: int, life: Life, meeting: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=life.world)
    save_for_ever(life, World(rank, life.world, rank, life.world, torch.device("cpu")))


def fork(rank: int, life: Life, meeting: Path) -> int:
    parent = os.getpid()
    if child := os.fork():
        return child
    try:
        die_with_parent(parent)
        be_rank(rank, life, meeting)
    except BaseException as error:  # such as a peer that was killed
        say(f"ends {type(error).__name__}")
    finally:
        os._exit(1)


def main() -> None:
    torch.set_num_threads(1)
    Counted(World(0, 1, 0, 1, torch.device("cpu")), 1)  # the first optimizer of a process imports for a second
    with tempfile.TemporaryDirectory() as folder:
        for number, line in enumerate(iter(sys.stdin.readline, "")):
            life = Life(**json.loads(line))
            children = [fork(rank, life, Path(folder) / str(number)) for rank in range(life.world)]
            say(f"born {' '.join(map(str, children))}")
            sys.stdin.readline()  # till then their numbers must be nobody else's
            for child in children:
                os.waitpid(child, 0)
            say("dead")


if __name__ == "__main__":
    main()
