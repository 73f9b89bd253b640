"""One rank of a replay: the steps up to the requested one, and what that one computes."""

import json
import math
from typing import TypedDict

import numpy as np
import torch

from distft.config import Config
from distft.models.flops import Flops
from distft.optim.groups import set_learning_rate
from distft.run import RunFolder, read_json, write_json
from distft.runtime import heartbeat
from distft.runtime.determinism import seed_for
from distft.runtime.process_group import World, texts_of_all
from distft.strategies.engine import Engine
from distft.train.feed import Feed, one_batch
from distft.train.step import Targets, train_step
from distft.worker import begin, built, make_engine, make_feed, make_skeleton, resume


class RowLoss(TypedDict):
    """A row whose loss is not finite."""

    row: int
    id: str
    loss: str  # repr of the number: JSON has no NaN


class MicroBatch(TypedDict):
    """The loss of one micro-batch, as in step.json."""

    rank: int
    micro_batch: int
    loss: str
    is_finite: bool
    rows: list[RowLoss]


def replay(run: RunFolder, attempt: int, world: World) -> None:
    """Writes step.json: loss and gradient norm of the step in batch.json, and each micro-batch's loss."""
    started, _ = begin(run, attempt, world)
    config, plan = started.config, started.plan
    model = make_skeleton(config, plan)
    engine = make_engine(config, plan, world)
    checkpoint = resume(started, engine, model)
    feed = make_feed(config, plan, Flops.of(model), world)
    factor = built(config.schedule)(total_steps=feed.steps)
    wanted = read_json(run.path / "batch.json")["step"]
    engine.train(True)
    for step in range(checkpoint.step + 1 if checkpoint else 1, wanted):
        take(engine, feed, config, factor(step), step, world)
    mine = look(engine, feed, config.seed, wanted, world)
    row = take(engine, feed, config, factor(wanted), wanted, world)
    everyones = [part for text in texts_of_all(json.dumps(mine), world) for part in json.loads(text)]
    if world.is_first:
        write_json(run.path / "step.json", {"step": wanted, **row, "micro_batches": everyones})
        run.write_status(state="completed", step=wanted)


def take(engine: Engine, feed: Feed, config: Config, factor: float, step: int, world: World) -> dict[str, str]:
    """Repeats a step of the run; returns its loss and gradient norm."""
    heartbeat.begin_step(step)
    set_learning_rate(engine.optimizer, factor)
    seed = seed_for(config.seed, "step", step)
    limit = config.train.max_grad_norm
    result = train_step(
        engine, feed.batches(step), Targets(feed.num_targets(step), feed.target_weight(step)), world, limit, seed
    )
    return {"loss": repr(result.loss), "grad_norm": repr(result.grad_norm)}


@torch.no_grad()
def look(engine: Engine, feed: Feed, run_seed: int, step: int, world: World) -> list[MicroBatch]:
    """Returns the loss of each micro-batch of this rank; where any rank's is not finite, also of each single row.

    Every rank runs the same number of forwards, since all gather sharded weights.
    """
    seed = seed_for(run_seed, "step", step)
    dealt = feed.cut.micro_batches(feed.rows_of(step), world.size)
    found: list[MicroBatch] = []
    for i, ranks in enumerate(dealt):
        loss = _loss(engine, feed, ranks[world.rank], seed_for(seed, i, world.rank), world)
        is_finite = math.isfinite(loss)
        entry = MicroBatch(rank=world.rank, micro_batch=i, loss=repr(loss), is_finite=is_finite, rows=[])
        any_non_finite = any(texts_of_all("" if is_finite else "non-finite", world))
        for k in range(max(map(len, ranks)) if any_non_finite else 0):
            alone = ranks[world.rank][k : k + 1]
            own = _loss(engine, feed, alone, seed_for(seed, i, world.rank), world)
            for index in alone.tolist() if not math.isfinite(own) else ():
                entry["rows"].append(RowLoss(row=index, id=feed.rows.ids[index], loss=repr(own)))
        found.append(entry)
    return found


def _loss(engine: Engine, feed: Feed, rows: np.ndarray, seed: int, world: World) -> float:
    torch.manual_seed(seed)
    value, _ = engine.forward(one_batch(feed.rows, rows, feed.multiple_of, world))
    return float(value)
