"""One attempt of a run, and its evaluations and saves: what the training loop gets from the config.

Like distft.worker, it reads the config, so that the code that it calls gets plain values.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from distft.checkpoint.chunks import num_weights
from distft.checkpoint.retention import Retention, best_at
from distft.checkpoint.save import Saver, Snapshot
from distft.config import Config
from distft.data.batches import Batch
from distft.data.shards import Rows
from distft.evaluate.held_out import held_out
from distft.generate.samples import make_samples
from distft.models.flops import Flops
from distft.run import Plan, RunFolder
from distft.runtime.device import compute_dtype
from distft.runtime.process_group import World
from distft.strategies.engine import Engine
from distft.tasks import Task, load_task
from distft.train.early_stopping import EarlyStopping, Evaluator, When
from distft.train.ema import in_force
from distft.train.feed import all_rows, make_cut, padding_multiple
from distft.train.first_pass import open_rows
from distft.train.overfitting import Overfitting, advice_for, rows_to_watch
from distft.train.state import Checkpointer, SaveSettings, states_per_weight
from distft.train.stored import PassSettings


@dataclass(frozen=True)
class Attempt:
    """One start of a run, on this process."""

    run: RunFolder
    number: int
    config: Config  # as frozen, with the attention kernel resolved
    plan: Plan  # with the folders that this node reads from
    world: World

    @property
    def task(self) -> Task:
        return load_task(self.config.model.task)


def pass_settings(config: Config, world: World) -> PassSettings:
    """Returns the settings of the passes over the rows, for a loss that compares the model with another one."""
    return PassSettings(
        loss=config.loss,
        instance=[config.model.facts, config.seed],
        precision=compute_dtype(config.train.precision, world.device),
        compiled=config.train.compile,
        shards=config.data.shards,
        cache_dir=config.cache_dir,
    )


def make_evaluator(attempt: Attempt, engine: Engine, flops: Flops, steps: int, start_step: int) -> Evaluator:
    """Returns the evaluations on held-out rows; rank 0 recalls those up to `start_step`."""
    settings, task = attempt.config.eval, attempt.task
    stopping = EarlyStopping(settings.early_stopping.patience, settings.early_stopping.min_delta, settings.selection)
    if attempt.world.is_first and start_step > 0:  # a run that begins repeats the evaluation of step 0
        stopping.recall(row for row in attempt.run.read_metrics("eval") if row["step"] <= start_step)

    def measure() -> dict[str, float | int]:
        return held_out(engine, held_out_batches(attempt, flops), attempt.world, task)

    def measure_train() -> dict[str, float | int]:
        return held_out(engine, watched_batches(attempt, flops), attempt.world, task)

    watches = settings.train_rows > 0 and attempt.plan.eval_rows > 0
    overfitting = make_overfitting(attempt, start_step)
    when = When(settings.every_steps, steps, at_last=settings.at_ends)
    samples = make_samples(engine, attempt.config, attempt.plan, attempt.run, attempt.world, start_step)
    return Evaluator(
        measure=measure if attempt.plan.eval_rows else None,
        when=when,
        at_start=settings.at_ends,
        stopping=stopping,
        sample=samples,
        measure_train=measure_train if watches else None,
        overfitting=overfitting,
        weights=partial(in_force, engine, attempt.config.evaluates_ema),
    )


def make_overfitting(attempt: Attempt, start_step: int) -> Overfitting:
    """Returns the overfitting watch; rank 0 recalls the evaluations up to `start_step`."""
    config = attempt.config
    patience, word = config.eval.early_stopping.patience, config.choices.get("tuning")
    found = Overfitting(advice_for(patience, config.optimizer.weight_decay, word, attempt.plan.epochs))
    if attempt.world.is_first and start_step > 0:
        found.recall(row for row in attempt.run.read_metrics() if row["step"] <= start_step)
    return found


def make_saver(
    attempt: Attempt, engine: Engine, position: Callable[[int], int], start_step: int, snapshot: Snapshot
) -> Checkpointer:
    """Returns the saver of an attempt. position: step -> where in the order of the rows the next step starts."""
    run, plan, world, settings = attempt.run, attempt.plan, attempt.world, attempt.config.checkpoint
    selection = attempt.config.eval.selection
    best = best_at(run.checkpoints, start_step, run.read_metrics("eval"), selection) if world.is_first else None
    retention = Retention(settings.keep, settings.keep_every)
    background = snapshot if settings.background else None
    saver = Saver(run.checkpoints, retention, world, start_step, background)
    if background:
        scalars = 8 * sum(1 for _ in engine.pieces())  # the optimizer's own, such as its step
        background.reserve(int(num_weights(engine) * (1 + states_per_weight(plan))) + scalars)
    manifest = {
        "strategy": attempt.config.strategy.plain(),
        "config": hashlib.sha256(run.config.read_bytes()).hexdigest(),
        "resume": settings.resume,
        "reads": plan.reads,
        "base_step": plan.base_step,
        "base_row": plan.base_row,
    }
    seconds = 60 * settings.every_minutes if settings.every_minutes else None
    rules = SaveSettings(seconds, settings.on_failure == "stop", manifest, selection)
    return Checkpointer(engine, saver, rules, position, best)


def held_out_batches(attempt: Attempt, flops: Flops) -> Iterator[Batch]:
    """Yields this process's share of the held-out rows."""
    rows = open_rows(pass_settings(attempt.config, attempt.world), attempt.plan, "eval", attempt.world)
    return evaluated_batches(attempt, flops, rows)


def watched_batches(attempt: Attempt, flops: Flops) -> Iterator[Batch]:
    """Yields this process's share of the training rows that are evaluated too (eval.train_rows)."""
    config = attempt.config
    rows = open_rows(pass_settings(config, attempt.world), attempt.plan, "train", attempt.world)
    return evaluated_batches(attempt, flops, rows, rows_to_watch(len(rows), config.eval.train_rows, config.seed))


def evaluated_batches(attempt: Attempt, flops: Flops, rows: Rows, indices: np.ndarray | None = None) -> Iterator[Batch]:
    """Yields this process's share of the rows, cut into forwards as evaluations are. indices: None for all rows."""
    config, plan, world = attempt.config, attempt.plan, attempt.world
    micro_rows = config.eval.micro_batch_size or plan.micro_batch_size
    micro_tokens = None if micro_rows else plan.micro_batch_tokens
    multiple_of = padding_multiple(micro_tokens, config.train.compile, world.device)
    return all_rows(rows, make_cut(rows, micro_rows, micro_tokens, flops), world, multiple_of, indices)
