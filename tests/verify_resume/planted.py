"""Faults to plant into a run, and a launcher that forks its processes, so that many runs cost little.

A module of its own (trust=[planted.]), as a user's would be.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from distft import rank
from distft.launchers.contract import Outcome
from distft.run import RunFolder
from distft.train.loop import Loop
from distft.verify_resume import watched
from tests.support.ranks import free_port


@dataclass
class Loss:
    """Cross-entropy whose logits carry `noise` of another kind in every process, like atomic additions do.

    own_seed: dropout is seeded by how many micro-batches this process has seen: right until the first resume.
    """

    noise: float = 0.0
    own_seed: bool = False
    seen: int = field(default=0, init=False)

    def __call__(self, model: Any, batch: Any) -> Any:
        if self.own_seed and model.training:
            self.seen += 1
            torch.manual_seed(self.seen)
        logits = model(**batch.inputs()).logits[0, batch.positions].float()
        random = np.random.default_rng(int.from_bytes(os.urandom(8), "big"))
        logits = logits * (1 + self.noise * torch.from_numpy(random.standard_normal(logits.shape, np.float32)))
        correct = (logits.detach().argmax(-1) == batch.targets).sum()
        return F.cross_entropy(logits, batch.targets, reduction="none").double().sum(), {"correct": correct}


def restart_order(run: RunFolder, attempt: int, world: Any) -> None:
    """Trains under watch, but reads the rows from the first one on after every resume."""
    run_loop = Loop.run

    def restarted(loop: Loop) -> Any:
        feed, start = loop.feed, loop.settings.start_step
        object.__setattr__(
            feed, "borders", np.concatenate([feed.borders[:1].repeat(start), feed.borders])[: len(feed.borders)]
        )
        return run_loop(loop)

    Loop.run = restarted
    watched.train(run, attempt, world)


class Forked:
    """Runs whose processes are forked from this one, which has imported everything."""

    def __init__(self, nodes: int = 1, processes_per_node: int = 1, wait: bool = True, grace_seconds: float = 300):
        assert nodes == 1
        self.processes, self.wait, self.grace_seconds = processes_per_node, wait, grace_seconds

    def submit(self, run_dirs: Sequence[Path]) -> "list[ForkedRun]":
        return [ForkedRun(RunFolder(path), self.processes) for path in run_dirs]


class ForkedRun:
    """One attempt; when one process fails the others are killed."""

    def __init__(self, run: RunFolder, world: int) -> None:
        self.run = run
        port = free_port()
        self.alive = {self._fork(rank, world, port) for rank in range(world)}

    def _fork(self, own_rank: int, world: int, port: int) -> int:
        parent = os.getpid()
        if child := os.fork():
            return child
        sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(world))
        ranks = dict.fromkeys(("RANK", "LOCAL_RANK"), str(own_rank))
        os.environ.update(sizes | ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
        attempt = str(self.run.read_status()["attempt"])
        sys.argv = ["rank", str(self.run.path), "--attempt", attempt, "--parent", str(parent)]
        rank.main()
        os._exit(0)

    def wait(self, seconds: float) -> Outcome | None:
        time.sleep(seconds / 4)
        for process in sorted(self.alive):
            ended, status = os.waitpid(process, os.WNOHANG)
            self.alive -= {ended}
            if code := os.waitstatus_to_exitcode(status):
                self.cancel()
                return Outcome("failed", {"type": f"exit code {code}", "message": "", "log": str(self.run.logs)})
        return None if self.alive else Outcome(self.run.read_status()["state"])

    def cancel(self) -> None:
        for process in self.alive:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
