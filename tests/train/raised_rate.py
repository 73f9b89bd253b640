"""Trains a tiny model whose learning rate is ten times as high from a step on; writes every warning by its step.

`python -m tests.train.raised_rate OUT ROWS STEP`
"""

import json
import sys
from pathlib import Path

import torch

from distft.data.order import Order, row_borders
from distft.data.shards import Rows
from distft.models.flops import Flops
from distft.models.init import FreshWeights
from distft.optim.groups import set_learning_rate
from distft.runtime.process_group import process_group
from distft.tensors.streaming import fill
from distft.train.feed import Feed, make_cut
from distft.train.health import Warnings
from distft.train.step import train_step
from tests.support.train_cases import GLOBAL_ROWS, make_engine, tiny_model

STEPS_AFTER = 4


def main() -> None:
    out, data, raised = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    case = {"strategy": "ddp", "model": "gpt2", "adamw": {"lr": 1e-2}}
    reported: dict[int, list[str]] = {}
    with process_group() as world:
        engine = make_engine(case, world)
        fill(engine.pieces(), FreshWeights(tiny_model(case["model"]), 0))
        rows = Rows(Path(data), "train")
        cut = make_cut(rows, GLOBAL_ROWS, None, Flops.of(tiny_model(case["model"])))
        feed, warnings = Feed(rows, Order(len(rows), 0), row_borders(10**6, GLOBAL_ROWS), cut, world), Warnings()
        engine.train(True)
        for step in range(1, raised + STEPS_AFTER):
            set_learning_rate(engine.optimizer, 10.0 if step >= raised else 1.0)
            done = train_step(engine, feed.batches(step), feed.num_targets(step), world, 1.0, step)
            if words := warnings.of(step, done.loss, done.grad_norm, done.is_skipped):
                reported[step] = words
    Path(out).write_text(json.dumps(reported))


if __name__ == "__main__":
    main()
