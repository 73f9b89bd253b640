"""One rank of a replay: the steps up to the requested one, and what that one computes."""

import json
import math
from typing import Any

import numpy as np
import torch

from distft.models.build import with_attention
from distft.models.flops import Flops
from distft.optim.groups import set_learning_rate
from distft.run import RunFolder, read_json, write_json
from distft.runtime import heartbeat
from distft.runtime.determinism import seed_for
from distft.runtime.process_group import World, texts_of_all
from distft.strategies.engine import Engine
from distft.train.feed import Feed, one_batch
from distft.train.state import load
from distft.train.step import train_step
from distft.worker import PLAIN, Values, make_engine, make_feed, make_skeleton, staged


def replay(run: RunFolder, attempt: int, world: World) -> None:
    """Writes step.json: loss and gradient norm of the step in batch.json, and each micro-batch's loss."""
    from hydra.utils import instantiate

    config, plan = run.read_config(), run.read_plan()
    plan = staged(config, plan, world)
    config, _ = with_attention(config, plan, world)
    model = make_skeleton(config, plan)
    feed = make_feed(config, plan, Flops.of(model), world)
    engine = make_engine(config, plan, world)
    checkpoint = load(engine, model, config, plan, run, world)
    factor = instantiate(config["schedule"], **PLAIN)(total_steps=feed.steps)
    wanted = read_json(run.path / "batch.json")["step"]
    engine.train(True)
    for step in range(checkpoint.step + 1 if checkpoint else 1, wanted):
        take(engine, feed, config, factor(step), step, world)
    mine = look(engine, feed, config, wanted, world)
    row = take(engine, feed, config, factor(wanted), wanted, world)
    everyones = [part for text in texts_of_all(json.dumps(mine), world) for part in json.loads(text)]
    if world.is_first:
        write_json(run.path / "step.json", {"step": wanted, **row, "micro_batches": everyones})
        run.write_status(state="completed", step=wanted)


def take(engine: Engine, feed: Feed, config: Values, factor: float, step: int, world: World) -> dict[str, Any]:
    """Takes a step as the run did."""
    heartbeat.begin_step(step)
    set_learning_rate(engine.optimizer, factor)
    seed = seed_for(config["seed"], "step", step)
    limit = config["train"]["max_grad_norm"]
    result = train_step(engine, feed.batches(step), feed.num_targets(step), world, limit, seed)
    return {"loss": repr(result.loss), "grad_norm": repr(result.grad_norm)}


@torch.no_grad()
def look(engine: Engine, feed: Feed, config: Values, step: int, world: World) -> list[dict[str, Any]]:
    """Returns the loss of each micro-batch of this rank; where any rank's is not finite, of each of its rows alone.

    Every rank makes as many forwards: sharded weights are gathered by all.
    """
    seed = seed_for(config["seed"], "step", step)
    dealt = feed.cut.micro_batches(feed.rows_of(step), world.size)
    found = []
    for i, ranks in enumerate(dealt):
        loss = _loss(engine, feed, ranks[world.rank], seed_for(seed, i, world.rank), world)
        entry = {"rank": world.rank, "micro_batch": i, "loss": repr(loss), "is_finite": math.isfinite(loss), "rows": []}
        spoilt = [text for text in texts_of_all("" if math.isfinite(loss) else "odd", world) if text]
        for k in range(max(map(len, ranks)) if spoilt else 0):
            alone = ranks[world.rank][k : k + 1]
            own = _loss(engine, feed, alone, seed_for(seed, i, world.rank), world)
            for index in alone.tolist() if not math.isfinite(own) else ():
                entry["rows"].append({"row": index, "id": feed.rows.ids[index], "loss": repr(own)})
        found.append(entry)
    return found


def _loss(engine: Engine, feed: Feed, rows: np.ndarray, seed: int, world: World) -> float:
    torch.manual_seed(seed)
    value, _ = engine.forward(one_batch(feed.rows, rows, feed.multiple_of, world))
    return float(value)
