"""The training loop: steps, and the work between them.

for each step:  read rows -> forward, backward (x accumulation) -> update -> log
                -> evaluate? -> best? -> save? -> stop?
after the first: the OOM probe, forward and backward of the largest micro-batch of the run

Trap: every process takes the same branch after a step, or the processes wait for each other for ever. So stop requests
and the state of a save travel in the step's own collective, and rank 0 decides about best and early stop.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from distft.goodput import lost_of, note
from distft.optim.groups import set_learning_rate
from distft.optim.schedules import Factor
from distft.run import MetricsRow, RunFolder
from distft.runtime import heartbeat
from distft.runtime.determinism import seed_for
from distft.runtime.device import collecting, memory_of
from distft.runtime.process_group import World, flags_of_first
from distft.strategies.engine import Engine, clip_coefficient
from distft.tasks import Sums
from distft.tasks.causal_lm import TASK as CAUSAL_LM
from distft.train.early_stopping import Evaluator, When
from distft.train.ema import Ema
from distft.train.feed import Feed, Prefetch
from distft.train.health import Monitor, rank_stats
from distft.train.oom_probe import probe_memory
from distft.train.overfitting import SPLIT, Losses
from distft.train.progress import MetricsLog, StepReport
from distft.train.state import Checkpointer
from distft.train.step import StepHooks, Targets, train_step
from distft.train.timing import Clock, Mfu, OwnWork


@dataclass(frozen=True)
class Settings:
    """Numbers of the loop."""

    start_step: int  # steps already done
    max_norm: float | None  # of the gradient; None: no clipping
    seed: int
    save: When
    save_best: bool = True  # also between the steps of `save`; else the best is looked for at those steps alone
    mfu: Mfu | None = None  # None: not computed
    flops_per_forward: float = 3.0  # training FLOPs over forward FLOPs; 2 where most weights are frozen
    metrics: Callable[[Sums, int], dict[str, float]] = CAUSAL_LM.metrics  # of the loss's sums over so many units


@dataclass(frozen=True)
class End:
    """How a loop ended, and the last step done."""

    state: Literal["completed", "stopped_early", "preempted", "rewound"]
    step: int


class RunLog:
    """Writes rows to metrics.jsonl and the step to status.json, on rank 0."""

    def __init__(self, run: RunFolder, attempt: int, saver: Checkpointer, start_step: int) -> None:
        """Drops rows after `start_step`, which this attempt makes again."""
        self.saver, self.metrics, self.report = saver, MetricsLog(run.metrics, start_step), StepReport(run)
        lost = lost_of(self.metrics.dropped)
        note(run, "training", attempt, step=start_step, world=saver.world.size, lost=lost)

    def __call__(self, row: MetricsRow) -> None:
        self.metrics.write(row)
        self.report.others["best"] = asdict(self.saver.best) if self.saver.best else None
        if row["split"] == "warning":
            self.report.others["warning"] = row["text"]
        self.report.write(row["step"])


@dataclass(frozen=True)
class StepFlags:
    """Facts that all processes share after a step, from its one collective."""

    stop: bool  # a stop was requested on some process
    written: bool  # all processes have written a save in the background, or one failed to
    save: bool  # a save is overdue
    work: list[float]  # seconds and cost of each rank (distft.train.health)


@dataclass(frozen=True)
class Loop:
    """Trains from settings.start_step to the end of the feed; every process runs the same loop."""

    engine: Engine
    feed: Feed
    schedule: Factor
    settings: Settings
    saver: Checkpointer
    monitor: Monitor
    evaluator: Evaluator
    log: Callable[[MetricsRow], None]
    stop_requested: Callable[[], object]  # true on any process: save and stop
    world: World
    profile: Callable[[int], AbstractContextManager[object]] = nullcontext  # around each step
    probe_memory: Callable[[Engine, Feed], None] = probe_memory  # after the first step of this start
    ema: Ema | None = None  # the moving average of the weights

    def run(self) -> End:
        """Trains; raises NonFinite when the NaN/Inf policy ends the run, and SaveFailed when a required save fails."""
        start, last = self.settings.start_step, self.feed.steps
        if start == 0 and self.evaluator.at_start and self.evaluator.measure:
            self._evaluate(0)
        elif start < last and flags_of_first([self.evaluator.stopping.is_over], self.world)[0]:
            return End("stopped_early", start)  # killed between its last save and its end
        self.engine.train(True)
        clock, border = Clock(self.world.device), Clock(torch.device("cpu"))  # within steps, and between them
        own = OwnWork(self.engine.objective.blocks, clock)
        saved = start > 0  # after the previous step
        with closing(Prefetch(self.feed)) as ahead, closing(own), collecting() as collect:
            for step in range(start + 1, last + 1):
                between = border.take()
                with self.profile(step):
                    row, flags = self._step(step, ahead, clock, own)
                row["between"] = between  # seconds since the previous step
                row |= {"saved": True} if saved else {}
                collect(step)
                if step == start + 1:
                    self.probe_memory(self.engine, self.feed)
                self.log(row)
                if self.monitor.check(row, flags.work) == "rewind":
                    return End("rewound", step)
                if flags.written:  # a failed save withdraws its best before the next value is compared with it
                    with border.phase("checkpoint"):
                        self.saver.advance()
                metrics, best, over = None, False, False
                with border.phase("evaluation"):
                    if self.evaluator.due(step):
                        metrics, best, over = self._evaluate(step)
                ending = flags.stop or over
                saved = self.settings.save.due(step) or ending or flags.save or (best and self.settings.save_best)
                if saved:
                    with border.phase("checkpoint"):
                        self.saver.save(step, metrics, best)
                if ending and step < last:
                    return End("stopped_early" if over else "preempted", step)
        return End("completed", last)

    def _evaluate(self, step: int) -> tuple[Mapping[str, float], bool, bool]:
        """Evaluates after `step`; returns the metrics, whether they are the best, and whether the run should end.

        Rank 0 decides for all: two processes could compare differently and would then wait for each other.
        """
        assert self.evaluator.measure
        with self.evaluator.weights():
            metrics = self.evaluator.measure()
            self.log({"step": step, "split": "eval", **metrics})
            if self.evaluator.measure_train:
                self._watch(step, metrics["loss"], self.evaluator.measure_train())
            if self.evaluator.sample:
                self.evaluator.sample(step)
        decided = [self.saver.is_best(step, metrics), self.evaluator.stopping.stop(metrics)]
        best, over = flags_of_first(decided, self.world)
        return metrics, best, over

    def _watch(self, step: int, held_out_loss: float, on_train: Mapping[str, float]) -> None:
        """Logs the metrics of training rows, and warns of overfitting."""
        self.log({"step": step, "split": SPLIT, **on_train})
        for text in self.evaluator.overfitting.of(Losses(step, held_out_loss, on_train["loss"])):
            self.log({"step": step, "split": "warning", "text": text})

    def _step(self, step: int, ahead: Prefetch, clock: Clock, own: OwnWork) -> tuple[MetricsRow, StepFlags]:
        """Does one step; returns its row of metrics.jsonl and what all processes know after it."""
        began = time.perf_counter()
        heartbeat.begin_step(step)
        rate = set_learning_rate(self.engine.optimizer, self.schedule(step))
        targets, tokens = self.feed.num_targets(step), self.feed.num_tokens(step)
        with clock.phase("data", on_host=True):
            batches = ahead.batches(step)

        def extra_stats() -> list[float]:
            saver = self.saver
            flags = (bool(self.stop_requested()), saver.is_written, saver.is_failed, saver.is_overdue())
            seconds, cost = own.of_step(sum(batch.cost for batch in batches))
            return [*flags, *rank_stats(seconds, cost, self.world)]

        hooks = StepHooks(extra_stats, self.saver.wait_copied, clock)
        seed = seed_for(self.settings.seed, "step", step)
        of_step = Targets(targets, self.feed.target_weight(step))
        result = train_step(self.engine, batches, of_step, self.world, self.settings.max_norm, seed, hooks)
        if self.ema and not result.is_skipped:
            self.ema.update(step)
        seconds = time.perf_counter() - began
        flops = self.settings.flops_per_forward * self.feed.forward_flops(step)
        row = {
            "step": step,
            "split": "train",
            "loss": result.loss,
            **self.settings.metrics(result.metric_sums, targets),
            "grad_norm": result.grad_norm,
            "clip_coefficient": clip_coefficient(result.grad_norm, self.settings.max_norm),
            "learning_rate": rate,
            "tokens": tokens,
            "target_tokens": targets,
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "flops": flops,
            "mfu": self.settings.mfu and self.settings.mfu.of_step(flops, seconds),
            "phases": result.seconds,  # within `seconds`
            **memory_of(self.world.device),
        }
        if result.is_skipped:
            row["skipped"] = True
        stops, written, failed, overdue, *work = result.sums
        return row, StepFlags(stops > 0, written == self.world.size or failed > 0, overdue > 0, work)
