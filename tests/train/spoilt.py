"""Steps that must be skipped, on real ranks: `python -m tests.train.spoilt OUT CASES.json`.

A case trains steps 1, 2 and 3, of which the second is spoilt on one rank alone, or is the OOM probe of the largest
micro-batch; its twin never sees the second.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from distft.data.order import Order, row_borders
from distft.data.shards import Rows
from distft.models.flops import Flops
from distft.models.init import FreshWeights
from distft.runtime.process_group import World, process_group, texts_of_all
from distft.strategies.engine import bit_sum
from distft.tensors.streaming import fill
from distft.train.feed import Feed, make_cut
from distft.train.oom_probe import probe_memory
from distft.train.step import train_step
from tests.support.train_cases import GLOBAL_ROWS, make_engine, tiny_model

VALUES = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


class SpoilGradient(torch.autograd.Function):
    """Leaves a loss as it is, and makes its gradient another number."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, gradient: float) -> torch.Tensor:
        ctx.gradient = gradient
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.full_like(gradients[0], ctx.gradient), None


def spoil(engine: Any, what: str, number: float) -> Any:
    """Has the next forwards give a loss, or a gradient, that is none; returns what undoes it."""
    forward = engine.forward

    def spoilt(*given: Any) -> Any:
        value, sums = forward(*given)
        return (value + number if what == "loss" else SpoilGradient.apply(value, number)), sums

    engine.forward = spoilt
    return lambda: setattr(engine, "forward", forward)


def state_of(engine: Any) -> list[int]:
    """Returns the bits of this process's weights and moments, added up."""
    weights = [piece.data() for piece in engine.pieces()]
    states = [state for each in engine.optimizer.state.values() for state in each.values() if torch.is_tensor(state)]
    local = [state.to_local() if hasattr(state, "to_local") else state for state in states]
    return [int(bit_sum(part)) if part else 0 for part in (weights, [each for each in local if each.numel()])]


def train(case: dict[str, Any], steps: list[int], world: World) -> dict[str, Any]:
    engine, model = make_engine(case, world), tiny_model(case["model"])
    fill(engine.pieces(), FreshWeights(tiny_model(case["model"]), 0))
    engine.refresh()
    rows = Rows(Path(case["rows"]), "train")
    cut = make_cut(rows, case["micro"], None, Flops.of(model))
    feed = Feed(rows, Order(len(rows), 0), row_borders(10**6, GLOBAL_ROWS), cut, world)
    engine.train(True)
    skipped, norms, states = [], [], []
    for step in steps:
        undo = tuple
        if step == 2 and case["what"] == "longest":
            probe_memory(engine, feed)
            states.append(state_of(engine))
            continue
        if step == 2 and world.rank == case["rank"]:
            undo = spoil(engine, case["what"], VALUES[case["number"]])
        result = train_step(engine, feed.batches(step), feed.num_targets(step), world, 1.0, step)
        undo()
        skipped.append(result.is_skipped)
        norms.append(result.grad_norm)
        states.append(state_of(engine))
    return {"skipped": skipped, "norms": [repr(norm) for norm in norms], "states": states}


def main() -> None:
    out, cases = sys.argv[1:]
    torch.set_num_threads(1)
    with process_group() as world:
        answers = []
        for case in json.loads(Path(cases).read_text()):
            both = {"spoilt": train(case, [1, 2, 3], world), "twin": train(case, [1, 3], world)}
            everyones = [json.loads(text) for text in texts_of_all(json.dumps(both), world)]
            answers.append({"case": case, "ranks": everyones})
        if world.is_first:
            Path(out).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
