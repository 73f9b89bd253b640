"""The training loop: steps, and what is due between them.

for each step:  read rows -> forward, backward (x accumulation) -> update -> log
                -> evaluate? -> best? -> save? -> stop?
after the first: the OOM probe, forward and backward of the largest micro-batch of the run
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from distft.optim.groups import set_learning_rate
from distft.optim.schedules import Factor
from distft.runtime import heartbeat
from distft.runtime.determinism import seed_for
from distft.runtime.device import collecting, memory_of
from distft.runtime.process_group import World, flags_of_first
from distft.strategies.engine import Engine, clip_coefficient
from distft.train.early_stopping import EarlyStopping, When
from distft.train.feed import Feed, Prefetch
from distft.train.health import told_of
from distft.train.step import train_step
from distft.train.timing import Clock, OwnWork, Peak, utilisation

End = Literal["completed", "stopped_early", "preempted", "rewound"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Hooks:
    """What the loop calls at step borders; every process calls each at the same steps."""

    evaluate: Callable[[], Row] | None  # the held-out metrics
    is_best: Callable[[int, float], bool]  # step, its held-out loss; rank 0's answer counts
    save: Callable[[int, float | None, bool], None]  # step, its held-out loss if measured, whether that is the best
    is_save_overdue: Callable[[], bool]  # by the clock; true on any process: save after the step in progress
    wait_copied: Callable[[], None]  # returns when a save in the background has copied what the next update changes
    is_written: Callable[[], bool]  # whether this process has written what it has to of a save in the background
    is_failed: Callable[[], bool]  # whether it could not write it
    advance: Callable[[], None]  # takes the save on that all have written, or fails it when one could not
    log: Callable[[Row], None]
    judge: Callable[[Row, Sequence[float]], Literal["go_on", "rewind"]]  # what comes after the step of this row, with
    # what each rank worked (distft.train.health); NonFinite: the end
    stop_requested: Callable[[], object]  # truthy on any process: save and stop
    try_longest: Callable[[], object] = tuple  # the dearest micro-batch, after the first step of this start
    profile: Callable[[int], AbstractContextManager[object]] = nullcontext  # of a step, while it is made


@dataclass(frozen=True)
class Settings:
    """The loop's own numbers."""

    start_step: int  # already done
    max_norm: float | None
    seed: int
    evaluate: When
    save: When
    evaluate_first: bool
    save_best: bool = True  # at once, also between the steps of `save`; else the best counts at those alone
    peak: Peak | None = None  # of a process's device; None: no MFU
    flops_per_forward: float = 3.0  # of training over those of the forward; without gradients of frozen weights 2


def train_steps(
    engine: Engine, feed: Feed, factor: Factor, settings: Settings, stopping: EarlyStopping, hooks: Hooks, world: World
) -> tuple[End, int]:
    """Trains from settings.start_step to the end of the feed; returns how it ended and the last step done.

    stopping: on rank 0, with the evaluations up to settings.start_step.
    """
    if settings.start_step == 0 and settings.evaluate_first and hooks.evaluate:
        _evaluate(hooks.evaluate, stopping, hooks, world, 0)
    elif settings.start_step < feed.steps and flags_of_first([stopping.is_over], world)[0]:
        return "stopped_early", settings.start_step  # it was killed after its last save and before its end
    engine.train(True)
    clock, border = Clock(world.device), Clock(torch.device("cpu"))  # within steps, and between them
    own = OwnWork(engine.objective.blocks, clock)
    saved = settings.start_step > 0  # after the step before
    with closing(Prefetch(feed)) as ahead, closing(own), collecting() as collect:
        for step in range(settings.start_step + 1, feed.steps + 1):
            between = border.take()
            with hooks.profile(step):
                row, told = _one(engine, ahead, factor, settings, hooks, world, clock, own, step)
            row["between"] = between  # seconds since the step before
            row |= {"saved": True} if saved else {}
            collect(step)
            if step == settings.start_step + 1:
                hooks.try_longest()
            hooks.log(row)
            if hooks.judge(row, told.work) == "rewind":
                return "rewound", step
            if told.written:  # a save that failed takes its best back before the next one is compared with it
                with border.phase("checkpoint"):
                    hooks.advance()
            loss, best, over = None, False, False
            with border.phase("evaluation"):
                if hooks.evaluate and settings.evaluate.due(step):
                    loss, best, over = _evaluate(hooks.evaluate, stopping, hooks, world, step)
            ending = told.stop or over
            saved = settings.save.due(step) or ending or told.save or (best and settings.save_best)
            if saved:
                with border.phase("checkpoint"):
                    hooks.save(step, loss, best)
            if ending and step < feed.steps:
                return ("stopped_early" if over else "preempted"), step
    return "completed", feed.steps


def _evaluate(
    evaluate: Callable[[], Row], stopping: EarlyStopping, hooks: Hooks, world: World, step: int
) -> tuple[float, bool, bool]:
    """Evaluates after `step`; returns the loss, whether it is the best, and whether the run should end.

    Rank 0 decides for all: on two sides of a comparison processes would wait for each other for ever.
    """
    metrics = evaluate()
    hooks.log({"step": step, "split": "eval", **metrics})
    loss = metrics["loss"]
    best, over = flags_of_first([hooks.is_best(step, loss), stopping.stop(loss)], world)
    return loss, best, over


@dataclass(frozen=True)
class _Told:
    """What all processes know after a step, out of its one collective."""

    stop: bool  # a stop was requested
    written: bool  # a save in the background has been written by all, or cannot be by one
    save: bool  # one is overdue
    work: list[float]  # of each rank


def _one(
    engine: Engine,
    ahead: Prefetch,
    factor: Factor,
    settings: Settings,
    hooks: Hooks,
    world: World,
    clock: Clock,
    own: OwnWork,
    step: int,
) -> tuple[Row, _Told]:
    """Does one step; returns its metrics row, and what all processes told each other."""
    began = time.perf_counter()
    heartbeat.begin_step(step)
    rate = set_learning_rate(engine.optimizer, factor(step))
    targets, tokens = ahead.feed.num_targets(step), ahead.feed.num_tokens(step)

    seed = seed_for(settings.seed, "step", step)
    with clock.phase("data", on_host=True):
        batches = ahead.batches(step)

    def told() -> list[float]:
        flags = (bool(hooks.stop_requested()), hooks.is_written(), hooks.is_failed(), hooks.is_save_overdue())
        return [*flags, *told_of(*own.of_step(sum(batch.cost for batch in batches)), world)]

    result = train_step(engine, batches, targets, world, settings.max_norm, seed, told, hooks.wait_copied, clock)
    seconds = time.perf_counter() - began
    flops = settings.flops_per_forward * ahead.feed.forward_flops(step)
    row = {
        "step": step,
        "split": "train",
        "loss": result.loss,
        "accuracy": result.accuracy,
        "grad_norm": result.grad_norm,
        "clip_coefficient": clip_coefficient(result.grad_norm, settings.max_norm),
        "learning_rate": rate,
        "tokens": tokens,
        "target_tokens": targets,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "flops": flops,
        "mfu": settings.peak and utilisation(flops, seconds, world.size, settings.peak),
        "phases": result.seconds,  # within `seconds`
        **memory_of(world.device),
    }
    if result.is_skipped:
        row["skipped"] = True
    stops, written, failed, overdue, *work = result.sums
    return row, _Told(stops > 0, written == world.size or failed > 0, overdue > 0, work)
