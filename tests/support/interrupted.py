"""Stops runs at random moments: `python -m tests.support.interrupted OUT RUNS TRIALS SEED`, on every rank.

RUNS/straight and RUNS/cut have the same config. The first is trained without interruption. The second receives SIGTERM,
SIGUSR1 or the launcher's stop request, on any rank, once or twice, at any moment from before its start to after its
end, and continues in the next trial. A run that has ended is deleted and started again.
"""

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from distft import worker
from distft.checkpoint import save
from distft.checkpoint.load import Checkpoint
from distft.checkpoint.retention import latest
from distft.run import RunFolder
from distft.runtime import stop
from distft.runtime.process_group import World, from_first, process_group

KINDS = ("SIGTERM", "SIGUSR1", "request")


@dataclass(frozen=True)
class Ask:
    """A signal or stop request, its rank, and the seconds after which it is sent, each time."""

    kind: str
    rank: int
    seconds: tuple[float, ...]


def send(ask: Ask, run: RunFolder, attempt: int, world: World) -> threading.Thread:
    """Sends the requested signals if they are for this rank, in a thread that ends when all were sent."""

    def sent() -> None:
        began = time.monotonic()
        for seconds in ask.seconds if world.rank == ask.rank else ():
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            if ask.kind == "request":
                stop.request(run, attempt, "the launcher was signalled")
            else:
                os.kill(os.getpid(), signal.Signals[ask.kind])

    thread = threading.Thread(target=sent)
    thread.start()
    return thread


def one_attempt(run: RunFolder, world: World, ask: Ask | None) -> dict[str, Any]:
    """Trains one attempt from the last checkpoint; returns its outcome and the steps that were saved."""
    attempt = run.read_status()["attempt"] + 1
    dist.barrier()
    if world.is_first:
        stop.clear(run)
        run.write_status(state="pending", attempt=attempt)
    stop.forget()
    stop.listen()
    dist.barrier()
    saved: list[int] = []
    publish = save.publish
    save.publish = lambda folder, step, body: (saved.append(step), publish(folder, step, body))[1]
    thread = send(ask, run, attempt, world) if ask else None
    began = time.monotonic()
    worker.train(run, attempt, world)
    seconds = time.monotonic() - began
    if thread:
        thread.join()
    save.publish = publish
    dist.barrier()
    status = run.read_status()
    newest = latest(run.checkpoints)
    assert newest is not None
    return {
        "state": status["state"],
        "step": status["step"],
        "saved": saved,
        "latest": int(newest.name[5:]),
        "seconds": seconds,
        "ask": ask and [ask.kind, ask.rank, *ask.seconds],
    }


def weights(run: RunFolder) -> dict[str, bytes]:
    folder = latest(run.checkpoints)
    assert folder is not None
    checkpoint = Checkpoint(folder)
    return {
        f"{slot} {name}": checkpoint.read(name, shape, 0, prod(shape), slot).numpy().tobytes()
        for (slot, name), shape in checkpoint.shapes.items()
    }


def numbers(run: RunFolder) -> list[Any]:
    """Returns the rows of metrics without times and memory."""
    keys = ("step", "split", "loss", "accuracy", "grad_norm", "learning_rate", "tokens")
    return [[row.get(key) for key in keys] for row in run.read_metrics()]


def restart(run: RunFolder, world: World) -> None:
    dist.barrier()
    if world.is_first:
        while run.checkpoints.exists():  # the saver's thread may be deleting in it, too, which a process waits for
            shutil.rmtree(run.checkpoints, ignore_errors=True)
        run.metrics.unlink()
    dist.barrier()


def main() -> None:
    out, runs, trials, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    straight, cut, chance = RunFolder(runs / "straight"), RunFolder(runs / "cut"), random.Random(seed)
    with process_group() as world:
        one_attempt(straight, world, None)  # the first one loads libraries
        restart(straight, world)
        longest = float(from_first(str(one_attempt(straight, world, None)["seconds"]), world))
        done, ends = [], []
        wanted = weights(straight), numbers(straight)
        while len(done) < trials or done[-1]["state"] != "completed":
            seconds = sorted(chance.uniform(0, longest) for _ in range(chance.choice((1, 1, 2))))
            ask = Ask(chance.choice(KINDS), 0, tuple(seconds))
            if ask.kind != "request":
                ask = Ask(ask.kind, chance.randrange(world.size), ask.seconds)
            done.append(one_attempt(cut, world, ask if len(done) < trials else None))
            if done[-1]["state"] == "completed":
                ends.append((weights(cut), numbers(cut)) == wanted)
                restart(cut, world)
        if world.is_first:
            Path(out).write_text(json.dumps({"done": done, "ends": ends}))


if __name__ == "__main__":
    main()
