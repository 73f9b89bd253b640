"""Where a run's weights come from and where they go: base model, checkpoints, and the rules between them."""

import hashlib
import time
from collections.abc import Callable
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from distft.checkpoint.chunks import num_weights
from distft.checkpoint.load import Checkpoint, find, restore
from distft.checkpoint.retention import Best, Retention, best_at
from distft.checkpoint.save import SaveFailed, Saver, Snapshot
from distft.data.order import Base, base_of
from distft.models.init import FreshWeights
from distft.run import Plan, RunFolder
from distft.runtime.errors import NonFinite
from distft.runtime.process_group import World, differ, texts_of_all
from distft.strategies.engine import Engine, Piece
from distft.tensors.streaming import fill, folder_chunks, stream

Values = dict[str, Any]


def load(engine: Engine, base: Any, config: Values, plan: Plan, run: RunFolder, world: World) -> Checkpoint | None:
    """Fills the engine from the checkpoint to resume, else from the base model; returns that checkpoint.

    base: the skeleton of the base model, without what tuning adds. A checkpoint holds what is trained, so what is
    frozen comes from the base model either way.
    """
    checkpoint = find(run.checkpoints, config["checkpoint"]["resume"], world, partial(restore, engine))
    pieces = [piece for piece in engine.pieces() if checkpoint is None or piece.frozen]
    _fill_from_base(pieces, base, config["seed"], Path(plan.model_dir) if plan.model_dir else None, world)
    engine.refresh()
    return checkpoint


def steps_done(checkpoint: Checkpoint | None, plan: Plan) -> int:
    """Returns the steps that a run has done with what it was loaded from; RuntimeError when the plan, whose rows go on
    after another checkpoint, counted otherwise."""
    base = Base(plan.base_step, plan.base_row)
    if base_of(checkpoint.manifest if checkpoint else None, plan.reads) == base:
        return checkpoint.step if checkpoint else 0
    found = checkpoint.folder if checkpoint else "never"
    raise RuntimeError(
        f"the plan reads row {base.row} after step {base.step}, and the checkpoint of that step cannot be resumed. "
        f"Try: checkpoint.resume={found}, which plans again"
    )


def _fill_from_base(pieces: list[Piece], base: Any, seed: int, folder: Path | None, world: World) -> None:
    """Fills from the folder what the base model has, and draws what tuning adds, or all without a folder."""
    stored = {name for name, _ in base.named_parameters()} if folder else set()
    if folder:
        stream(folder_chunks(folder, world, base), [piece for piece in pieces if piece.name in stored], world)
    fill([piece for piece in pieces if piece.name not in stored], FreshWeights(base, seed))


def check_replicas(engine: Engine) -> None:
    """Raises RuntimeError when processes that should hold the same weights do not: they would train several models."""
    fingerprint, group = engine.fingerprint()
    if group is not None and differ(fingerprint, group):
        raise RuntimeError("processes that replicate the same weights hold different ones")


def check_finite(engine: Engine, world: World) -> None:
    """Raises NonFinite on every process when a weight of any is not finite: it would be saved over a good one."""
    pieces = [piece for piece in engine.pieces() if piece.region.count and not piece.frozen]
    norms = [torch.linalg.vector_norm(piece.data(), float("inf")) for piece in pieces]
    largest = torch.stack(norms) if norms else torch.zeros(0)
    odd = [piece.name for piece, is_finite in zip(pieces, largest.isfinite().tolist(), strict=True) if not is_finite]
    if found := sorted({name for text in texts_of_all("\n".join(odd), world) for name in text.splitlines()}):
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise NonFinite(f"weights are not finite, and are not saved: {', '.join(found[:3])}{more}")


def states_per_weight(plan: Plan) -> float:
    """Returns how many numbers the optimizer keeps for each weight; 2 where the plan could not tell."""
    whole = plan.memory.get("ddp")
    return whole["optimizer"] / whole["parameters"] if whole else 2.0


class Saving:
    """The saves of a run, as its config has them."""

    def __init__(
        self,
        engine: Engine,
        config: Values,
        plan: Plan,
        run: RunFolder,
        start_step: int,
        position: Callable,
        world: World,
        snapshot: Snapshot,
    ) -> None:
        """position: step -> where in the order of the rows the next step starts. snapshot: for saves in the background,
        kept by a run that goes back to a checkpoint."""
        settings = config["checkpoint"]
        self.engine, self.position, self.must_save = engine, position, settings["on_failure"] == "stop"
        self.world = world
        self.failure = ""
        self.best = best_at(run.checkpoints, start_step, run.read_metrics("eval")) if world.is_first else None
        self.best_before = self.best  # the save under way
        minutes = settings.get("every_minutes")  # not of older versions
        self.every_seconds, self.began = 60 * minutes if minutes else None, time.monotonic()
        self.saver = Saver(
            run.checkpoints,
            Retention(settings["keep"], settings["keep_every"]),
            world,
            start_step,
            snapshot if settings["background"] else None,
        )
        scalars = 8 * sum(1 for _ in engine.pieces())  # the optimizer's own, such as its step
        if settings["background"]:
            snapshot.reserve(int(num_weights(engine) * (1 + states_per_weight(plan))) + scalars)
        self.about = {
            "strategy": config["strategy"],
            "config": hashlib.sha256(run.config.read_bytes()).hexdigest(),
            "resume": settings["resume"],
            "reads": plan.reads,
            "base_step": plan.base_step,
            "base_row": plan.base_row,
        }

    def is_best(self, step: int, loss: float) -> bool:
        """Returns whether this held-out loss is lower than any that counts, on rank 0, which decides; NaN never is.

        What counts is saved, but for the model before the first step, which can be had at any time.
        """
        is_lower = isfinite(loss) and (self.best is None or loss < self.best.loss)
        if is_lower and step == 0:
            self.best = Best(0, loss)
        return is_lower

    def is_overdue(self) -> bool:
        """Returns whether checkpoint.every_minutes have passed since the last save began, on rank 0, which decides."""
        return bool(self.every_seconds) and self.world.is_first and time.monotonic() - self.began > self.every_seconds

    def save(self, step: int, held_out_loss: float | None, is_best: bool) -> None:
        """Starts the save of `step`, after the one before it has come to count."""
        self.commit()
        check_replicas(self.engine)
        check_finite(self.engine, self.world)
        self.began, self.best_before = time.monotonic(), self.best
        measured = held_out_loss if held_out_loss is not None and isfinite(held_out_loss) else None
        if is_best and measured is not None:
            self.best = Best(step, measured)
        about = self.about | {"next_row": self.position(step), "held_out_loss": measured}
        self._unless_tolerated(lambda: self.saver.start(self.engine, step, about, is_best))

    def advance(self) -> None:
        """Takes the last save on towards counting, as the saver's method of that name."""
        self._unless_tolerated(self.saver.advance)

    def commit(self) -> None:
        """Makes the last save count, waiting for it where need be."""
        self._unless_tolerated(self.saver.finish)

    def close(self, step: int) -> None:
        """Makes the last save count; SaveFailed when it is not the one of `step`, with which the run ends."""
        self.must_save = True
        self.commit()
        if self.saver.saved_step != step:
            raise SaveFailed(self.failure)

    def _unless_tolerated(self, action: Callable[[], None]) -> None:
        try:
            action()
        except SaveFailed as failure:
            if self.must_save:
                raise
            self.failure, self.best = str(failure), self.best_before
            print(f"{failure}. Training goes on; the last good checkpoint stays in force.")
