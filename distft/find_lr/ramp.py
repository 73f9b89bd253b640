"""The ranks of a learning-rate range test: real training steps of the run's own rows, model, loss and strategy.

Trap: all processes end the ramp at the same step, because the loss of a step is that of the whole global batch.
"""

import math
from pathlib import Path

from distft.find_lr.suggestion import MEASURED, RAMP, Measured, Ramp, Smoother, has_diverged
from distft.models.flops import Flops
from distft.optim.groups import set_learning_rate
from distft.run import RunFolder, read_json, write_json
from distft.runtime import heartbeat
from distft.runtime.determinism import seed_for
from distft.runtime.process_group import World
from distft.train.feed import Prefetch
from distft.train.step import Targets, train_step
from distft.worker import begin, make_engine, make_feed, make_skeleton, resume


def rate_at(step: int, steps: int, ramp: Ramp) -> float:
    """Returns the learning rate of a step, from 1."""
    return ramp["low"] * (ramp["high"] / ramp["low"]) ** ((step - 1) / max(1, steps - 1))


def measure(run: RunFolder, number: int, world: World) -> None:
    """Trains from the base model with rising rates until the loss diverges or the ramp ends; writes the losses."""
    attempt, _ = begin(run, number, world)
    config, plan, ramp = attempt.config, attempt.plan, read_ramp(run.path)
    model = make_skeleton(config, plan)
    feed = make_feed(config, plan, Flops.of(model), world)
    engine = make_engine(config, plan, world)
    resume(attempt, engine, model)
    engine.train(True)
    smoother, lowest, ahead = Smoother(), math.inf, Prefetch(feed)
    rates, losses, diverged = list[float](), list[float](), False
    for step in range(1, feed.steps + 1):
        heartbeat.begin_step(step)
        rates.append(rate_at(step, feed.steps, ramp))
        set_learning_rate(engine.optimizer, rates[-1] / config.optimizer.lr)
        targets = Targets(feed.num_targets(step), feed.target_weight(step))
        seed = seed_for(config.seed, "step", step)
        result = train_step(engine, ahead.batches(step), targets, world, config.train.max_grad_norm, seed)
        losses.append(result.loss)
        smooth = smoother.add(result.loss)
        lowest = min(lowest, smooth)
        if world.is_first:
            run.write_status(state="running", step=step)
        if has_diverged(smooth, lowest):
            diverged = True
            break
    ahead.close()
    if world.is_first:
        kept = [loss if math.isfinite(loss) else str(loss) for loss in losses]
        write_json(run.path / MEASURED, Measured(rates=rates, losses=kept, diverged=diverged))
        run.write_status(state="completed", step=len(rates))


def read_ramp(folder: Path) -> Ramp:
    return read_json(folder / RAMP)
