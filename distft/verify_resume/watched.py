"""One rank's training, with the rows that it reads on record, and a SIGKILL to itself at the requested moment.

The training code is unchanged: the parts of its loop are wrapped, and Python's audit events show which files a save
touches.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distft import worker
from distft.checkpoint.format import step_dir
from distft.data.batches import Batch
from distft.run import RunFolder, read_json, write_json
from distft.runtime.process_group import World
from distft.strategies.engine import Engine
from distft.train.feed import Feed
from distft.train.loop import End, Loop
from distft.verify_resume.kills import Kill
from distft.verify_resume.runs import death_of, fed_file, kills_of


def train(run: RunFolder, attempt: int, world: World) -> None:
    """Trains as `worker.train` does, unless kills.json of the run has a kill for this attempt."""
    kills = [Kill(**each) for each in read_json(kills_of(run))]
    victim = world.rank == (attempt - 1) % world.size
    kill = kills[attempt - 1] if attempt <= len(kills) and victim else None
    watch = Watch(run, attempt, world, kill)

    def watched(loop: Loop) -> End:
        watch.start(loop.engine, loop.settings.start_step)
        measure = loop.evaluator.measure and watch.evaluation(loop.evaluator.measure)
        probe = watch.probe(loop.probe_memory)
        return replace(loop, evaluator=replace(loop.evaluator, measure=measure), probe_memory=probe).run()

    worker.train(run, attempt, world, watched)


class Watch:
    """Records the micro-batches of one rank, and kills it at its moment."""

    def __init__(self, run: RunFolder, attempt: int, world: World, kill: Kill | None) -> None:
        self.run, self.attempt, self.rank, self.kill = run, attempt, world.rank, kill
        self.done = self.micro = 0
        self.evaluating = self.probing = False
        self.file = fed_file(run, attempt, world.rank).open("w", buffering=1)

    def start(self, engine: Engine, start_step: int) -> None:
        """Wraps the engine's methods, and listens to file events where the kill is inside a save."""
        self.done = start_step
        engine.forward = self._forward(engine.forward)
        engine.backward = self._backward(engine.backward)
        engine.update = self._update(engine.update)
        if self.kill and self.kill.moment == "save":
            sys.addaudithook(self._saving)

    def evaluation(self, evaluate: Callable[[], Any]) -> Callable[[], Any]:
        def watched() -> Any:
            self.evaluating = True
            metrics = evaluate()
            self.evaluating = False
            return metrics

        return watched

    def probe(self, probe_memory: Callable[[Engine, Feed], None]) -> Callable[[Engine, Feed], None]:
        """Returns the OOM probe, whose micro-batch belongs to no step, so it is not recorded."""

        def unwatched(engine: Engine, feed: Feed) -> None:
            self.probing = True
            probe_memory(engine, feed)
            self.probing = False

        return unwatched

    def _forward(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def watched(batch: Batch, loss: Any = None) -> Any:
            if not self.evaluating and not self.probing and loss is None:
                line = {"step": self.done + 1, "micro": self.micro, "rows": digests(batch)}
                self.file.write(json.dumps(line) + "\n")
                self.micro += 1
            outputs = forward(batch, loss)
            if self.evaluating:
                self._die_at("evaluation", self.done)
            return outputs

        return watched

    def _backward(self, backward: Callable[..., Any]) -> Callable[..., Any]:
        def watched(value: Any, scale: float, last: bool) -> None:
            if last and not self.probing:
                self._die_at("accumulation", self.done + 1)
            backward(value, scale=scale, last=last)

        return watched

    def _update(self, update: Callable[..., Any]) -> Callable[..., Any]:
        def watched(norm: float, max_norm: float | None) -> None:
            update(norm, max_norm)
            if self.probing:
                return
            self.done, self.micro = self.done + 1, 0
            self._die_at("step", self.done)

        return watched

    def _saving(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Kills rank 0 before it renames the finished folder, another rank when it opens its file."""
        if self.kill is None or event != ("os.rename" if self.rank == 0 else "open"):
            return
        partial = f".{step_dir(Path(), self.kill.step).name}.partial"
        path = Path(os.fsdecode(arguments[0])) if isinstance(arguments[0], str | bytes | Path) else Path()
        if (path.name if self.rank == 0 else path.parent.name) == partial:
            self._die_at("save", self.kill.step)

    def _die_at(self, moment: str, step: int) -> None:
        if self.kill == Kill(moment, step):
            self.kill = None  # the record is a file too
            write_json(death_of(self.run, self.attempt), {"rank": self.rank, "moment": moment, "step": step})
            os.kill(os.getpid(), signal.SIGKILL)


def digests(batch: Batch) -> list[str]:
    """Returns a digest of the tokens and targets of each document that has targets."""
    input_ids, positions, targets = (
        part.cpu().numpy() for part in (batch.input_ids[0], batch.positions, batch.targets)
    )
    found = []
    for end, length in zip(np.cumsum(batch.lengths), batch.lengths, strict=True):
        mine = (positions >= end - length) & (positions < end)
        if mine.any():
            parts = (input_ids[end - length : end], positions[mine] - (end - length), targets[mine])
            text = b"|".join(part.astype(np.int64).tobytes() for part in parts)
            found.append(hashlib.blake2b(text, digest_size=8).hexdigest())
    return found
