"""Trains on pairs by strategy and reference, on one group of processes: OUT ROWS FOLDER CASES PART_ROWS."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from distft import worker
from distft.data.order import Order, row_borders
from distft.data.shards import Rows
from distft.models.flops import Flops
from distft.models.init import FreshWeights
from distft.runtime.determinism import seed_for
from distft.runtime.process_group import World, process_group
from distft.tensors.streaming import fill
from distft.train import stored
from distft.train.feed import Feed, make_cut
from distft.train.reference import attach, base_parts, base_reader
from distft.train.step import Targets, train_step
from distft.train.stored import missing, write_missing
from tests.support.train_cases import RANDOM_MODEL, config_of, part, tiny_model

MODEL, STEPS, GLOBAL_ROWS = "llama3_8b", 3, 8


def run_case(case: dict[str, Any], rows_dir: Path, folder: Path, world: World) -> dict[str, Any]:
    """Returns loss and margin of every step, and the files that the reference pass wrote."""
    config = config_of(case | {"model": MODEL})
    config = config.changed({"loss": part("loss", case["loss"]) | {"reference": case["reference"]}})
    engine, plain = worker.make_engine(config, RANDOM_MODEL, world), tiny_model(MODEL)
    fill(engine.pieces(), FreshWeights(plain, 0))
    engine.refresh()
    flops, rows = Flops.of(plain), Rows(rows_dir, "train")
    written = []
    if case["reference"] == "stored":
        parts = base_parts(folder / case["name"], rows)
        todo = missing(parts, world)
        write_missing(engine, base_reader(rows, make_cut(rows, 3, None, flops)), todo, world)
        written = [part.file.name for part in todo]
        rows = attach(rows, folder / case["name"])
    cut = make_cut(rows, case.get("micro", 2), None, flops)
    feed = Feed(rows, Order(len(rows), 0), row_borders(10**6, GLOBAL_ROWS), cut, world)
    done = []
    engine.train(True)
    for step in range(1, STEPS + 1):
        targets = Targets(feed.num_targets(step), feed.target_weight(step))
        result = train_step(engine, feed.batches(step), targets, world, 1.0, seed_for(0, step))
        done.append([result.loss, result.metric_sums["reward_chosen"], result.grad_norm])
    numbers = None if rows.reference is None else rows.reference.tolist()
    return {"case": case, "steps": done, "written": written, "stored": numbers}


def main() -> None:
    out, rows, folder, cases, part_rows = sys.argv[1:]
    torch.set_num_threads(1)
    stored.PART_ROWS = int(part_rows)
    with process_group() as world:
        answers = [run_case(case, Path(rows), Path(folder), world) for case in json.loads(cases)]
        if world.is_first:
            Path(out).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
