"""The training state: loaded from the base model and a checkpoint, saved as checkpoints.

Trap: a checkpoint holds trained weights only. Frozen weights come from the base model, also when a run resumes.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distft.checkpoint.load import Checkpoint, find, restore
from distft.checkpoint.probe import PROBE, PROMPTS, Probe, probe_prompt, probe_tokens, take_probe, write_probe
from distft.checkpoint.retention import Best, being_saved
from distft.checkpoint.save import SaveFailed, Saver
from distft.data.batches import make_batch, to_device
from distft.data.order import Base, base_of
from distft.data.shards import Row
from distft.losses.cross_entropy import logits
from distft.models.heads import language_head, new_weights, outputs, reads_tokens
from distft.models.init import FreshWeights
from distft.models.quantization import four_bit_weights
from distft.run import Plan
from distft.runtime import heartbeat
from distft.runtime.errors import NonFinite
from distft.runtime.process_group import World, differ, from_first, texts_of_all
from distft.strategies.engine import Engine, Piece
from distft.tasks.selection import BY_LOSS, Selection
from distft.tensors.streaming import Whole, fill, folder_chunks, stream
from distft.train.feed import Feed


def load(
    engine: Engine, base: Any, checkpoints: Path, resume: str, seed: int, model_dir: str | None, world: World
) -> Checkpoint | None:
    """Fills the engine from the checkpoint to resume, else from the base model; returns that checkpoint.

    base: the base model on meta, without the parameters that tuning adds. resume: checkpoint.resume. seed: of new
    parameters. model_dir: folder of the base model; None: a random instance.
    """
    checkpoint = find(checkpoints, resume, world, partial(restore, engine))
    pieces = [piece for piece in engine.pieces() if checkpoint is None or piece.frozen]
    fill_from_base(engine, pieces, base, seed, Path(model_dir) if model_dir else None, world)
    engine.refresh()
    return checkpoint


def steps_done(checkpoint: Checkpoint | None, plan: Plan) -> int:
    """Returns the steps done by the loaded checkpoint, 0 without one; RuntimeError when the plan continues from another
    checkpoint than the one loaded."""
    base = Base(plan.base_step, plan.base_row)
    if base_of(checkpoint.manifest if checkpoint else None, plan.reads) == base:
        return checkpoint.step if checkpoint else 0
    found = checkpoint.folder if checkpoint else "never"
    raise RuntimeError(
        f"the plan reads row {base.row} after step {base.step}, and the checkpoint of that step cannot be resumed. "
        f"Try: checkpoint.resume={found}, which plans again"
    )


def fill_from_base(
    engine: Engine, pieces: list[Piece], base: Any, seed: int, folder: Path | None, world: World
) -> None:
    """Loads the base model's weights from `folder`, and initialises what tuning adds; all weights without a folder.

    pieces: those of the engine to fill, in addition to weights in 4 bits, of which one at a time is whole.
    """
    stored = {name for name, _ in base.named_parameters()} - new_weights(base, folder) if folder else set()
    fresh = FreshWeights(base, seed)
    chunks = folder_chunks(folder, world, base) if folder else []
    if folder:
        stream(chunks, [piece for piece in pieces if piece.name in stored], world)
    fill([piece for piece in pieces if piece.name not in stored], fresh)
    for weight in four_bit_weights(engine.objective.model):
        whole = Whole(("parameter", weight.name), weight.shape, world.device)
        if weight.name in stored:
            stream([chunk for chunk in chunks if chunk.key == whole.key], [whole], world)
        else:
            fill([whole], fresh)
        weight.quantize(whole.tensor)


def check_replicas(engine: Engine) -> None:
    """Raises RuntimeError when replicas hold different weights: they would train several models."""
    fingerprint, group = engine.fingerprint()
    if group is not None and differ(fingerprint, group):
        raise RuntimeError("processes that replicate the same weights hold different ones")


def check_finite(engine: Engine, world: World) -> None:
    """Raises NonFinite on every process when any process holds a weight with NaN or Inf: no such state is saved."""
    pieces = [piece for piece in engine.pieces() if piece.region.count and not piece.frozen]
    norms = [torch.linalg.vector_norm(piece.data(), float("inf")) for piece in pieces]
    largest = torch.stack(norms) if norms else torch.zeros(0)
    non_finite = [
        piece.name for piece, is_finite in zip(pieces, largest.isfinite().tolist(), strict=True) if not is_finite
    ]
    if found := sorted({name for text in texts_of_all("\n".join(non_finite), world) for name in text.splitlines()}):
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise NonFinite(f"weights are not finite, and are not saved: {', '.join(found[:3])}{more}")


def states_per_weight(plan: Plan) -> float:
    """Returns how many numbers the optimizer keeps per weight; 2 where the plan has no estimate."""
    whole = plan.memory.get("ddp")
    return whole["optimizer"] / whole["parameters"] if whole else 2.0


@dataclass(frozen=True)
class SaveSettings:
    """The rules for saving, and the part of the manifest that is the same for every checkpoint of an attempt."""

    every_seconds: float | None  # save when this much time has passed since the last save; None: by steps alone
    stop_on_failure: bool  # a save that fails ends the run
    manifest: Mapping[str, object]
    selection: Selection = BY_LOSS  # which evaluation is the best


class Checkpointer:
    """Decides what is saved during training: the best checkpoint, overdue saves, tolerated failures.

    Every process calls `save`, `advance`, `commit` and `close` at the same steps. The writing is the Saver's.
    """

    def __init__(
        self,
        engine: Engine,
        saver: Saver,
        settings: SaveSettings,
        position: Callable[[int], int],
        best: Best | None = None,
    ) -> None:
        """position: step -> where the next step starts in the order of the rows. best: on rank 0, of earlier starts."""
        self.engine, self.saver, self.settings, self.position = engine, saver, settings, position
        self.world = saver.world
        self.best, self.best_before = best, best  # best_before: without the save in progress
        self.stop_on_failure, self.failure = settings.stop_on_failure, ""
        self.began = time.monotonic()  # the last save
        self.after_best: Callable[[int], None] | None = None  # called with the step of each best that is saved

    def is_best(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Returns whether this evaluation is the best so far; rank 0's answer is the valid one. NaN is never best.

        The best is saved, except before the first step: the base model needs no checkpoint.
        """
        selection = self.settings.selection
        value = selection.value(metrics)
        is_better = selection.is_better(value, self.best.value if self.best else None)
        if is_better and value is not None and step == 0:
            self.best = Best(0, value, selection.metric)
        return is_better

    def is_overdue(self) -> bool:
        """Returns whether checkpoint.every_minutes have passed since the last save began; false but on rank 0."""
        limit = self.settings.every_seconds
        return bool(limit) and self.world.is_first and time.monotonic() - self.began > limit

    @property
    def is_written(self) -> bool:
        """Whether this process has written its part of the save in the background."""
        return self.saver.is_written

    @property
    def is_failed(self) -> bool:
        """Whether this process could not write its part."""
        return self.saver.is_failed

    def wait_copied(self) -> None:
        """Waits until a save in the background has copied the state that the next update changes."""
        self.saver.wait_copied()

    def save(self, step: int, metrics: Mapping[str, float] | None, is_best: bool) -> None:
        """Starts the save of `step` after the one before it is committed. metrics: of the held-out rows at `step`."""
        self.commit()
        check_replicas(self.engine)
        check_finite(self.engine, self.world)
        self.began, self.best_before = time.monotonic(), self.best
        selection = self.settings.selection
        value = selection.value(metrics or {})
        if is_best and value is not None:
            self.best = Best(step, value, selection.metric)
        measured = {
            "held_out_loss": BY_LOSS.value(metrics or {}),
            "held_out": {"metric": selection.metric, "value": value},
        }
        about = {**self.settings.manifest, "next_row": self.position(step), **measured}
        self._unless_tolerated(lambda: self.saver.start(self.engine, step, about, is_best))
        if is_best and self.after_best:
            self.after_best(step)

    def advance(self) -> None:
        """Moves the last save one stage on, as Saver.advance does."""
        self._unless_tolerated(self.saver.advance)

    def commit(self) -> None:
        """Commits the last save, waiting for it where necessary."""
        self._unless_tolerated(self.saver.finish)

    def close(self, step: int) -> None:
        """Commits the last save; SaveFailed when it is not the one of `step`, the last step of the run."""
        self.stop_on_failure = True
        self.commit()
        if self.saver.saved_step != step:
            raise SaveFailed(self.failure)

    def _unless_tolerated(self, action: Callable[[], None]) -> None:
        try:
            action()
        except SaveFailed as failure:
            if self.stop_on_failure:
                raise
            self.failure, self.best = str(failure), self.best_before
            print(f"{failure}. Training goes on; the last good checkpoint stays in force.")


def save_probe(engine: Engine, checkpoints: Path, step: int, architecture: Any, feed: Feed, world: World) -> None:
    """Saves logits of the live model in its checkpoint of `step`, which an export is compared with; does nothing where
    the checkpoint has them or could not be saved.

    architecture: transformers' config of the model. feed: its first rows begin the prompts.
    """
    folder = being_saved(checkpoints, step)
    if not from_first(str(folder) if world.is_first and folder and not (folder / PROBE).is_file() else "", world):
        return
    heartbeat.enter("evaluation")
    text = architecture.get_text_config()
    model = engine.objective.model
    if language_head(model) is None:
        found = _probe_outputs(engine, text.vocab_size, reads_tokens(model), world)
        if world.is_first:
            assert folder is not None
            write_probe(folder, found)
        return

    def logits_of(input_ids: torch.Tensor) -> torch.Tensor:  # [1, S] -> [1, S, V]
        tokens = input_ids[0].numpy()
        [batch] = to_device([make_batch([Row(tokens, np.zeros(len(tokens), bool))])], world.device)
        return engine.forward(batch, logits)[1]["logits"]

    engine.train(False)
    longest = getattr(text, "max_position_embeddings", None)
    found = take_probe(logits_of, text.vocab_size, probe_prompt(islice(feed.rows, PROMPTS)), longest)
    engine.train(True)
    if world.is_first:
        assert folder is not None
        write_probe(folder, found)


@torch.no_grad()
def _probe_outputs(engine: Engine, vocab_size: int, reads_tokens: bool, world: World) -> Probe:
    """Returns the outputs of a classification model on fixed tokens; it has no answer."""
    input_ids = probe_tokens(vocab_size)
    tokens = input_ids[0].numpy().astype(np.int32)
    read = np.ones(len(tokens), bool) if reads_tokens else np.arange(len(tokens)) == len(tokens) - 1
    row = Row(tokens, read, labels=np.zeros(int(read.sum()), np.float32))
    [batch] = to_device([make_batch([row])], world.device)
    engine.train(False)
    found = engine.forward(batch, lambda model, batch: (torch.zeros(()), {"logits": outputs(model, batch)}))[1][
        "logits"
    ]
    engine.train(True)
    logits = found.float().cpu()  # [1, C], or of every token [S, C]
    nothing = torch.zeros(0)
    return Probe(input_ids, logits[None] if reads_tokens else logits, input_ids[0, :1].clone(), nothing.long(), nothing)
