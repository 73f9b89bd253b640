"""Lets a teacher read rows by strategy, on one group of processes: OUT ROWS FOLDER STRATEGIES PART_ROWS."""

import json
import sys
from pathlib import Path

import torch

from distft import worker
from distft.data.shards import Rows
from distft.models.flops import Flops
from distft.models.init import FreshWeights
from distft.runtime.process_group import World, process_group
from distft.tensors.streaming import fill
from distft.train import stored
from distft.train.feed import make_cut
from distft.train.stored import Reader, missing, write_missing
from distft.train.teacher import Measure, layout_of, teacher_parts
from tests.support.train_cases import RANDOM_MODEL, config_of, tiny_model

MODEL, K, TEMPERATURE, VOCABULARY = "llama3_8b", 6, 2.0, 250


def read(strategy: str, rows_dir: Path, folder: Path, world: World) -> list[str]:
    """Returns the names of the files that were written."""
    engine = worker.make_engine(config_of({"model": MODEL, "strategy": strategy}), RANDOM_MODEL, world)
    plain = tiny_model(MODEL)
    fill(engine.pieces(), FreshWeights(plain, 0))
    engine.refresh()
    rows = Rows(rows_dir, "train")
    todo = missing(teacher_parts(folder, rows, K), world)
    cut = make_cut(rows, 3, None, Flops.of(plain))
    write_missing(engine, Reader(rows, cut, layout_of(rows, K), Measure(K, TEMPERATURE, VOCABULARY)), todo, world)
    return [part.file.name for part in todo]


def main() -> None:
    out, rows, folder, strategies, part_rows = sys.argv[1:]
    torch.set_num_threads(1)
    stored.PART_ROWS = int(part_rows)
    with process_group() as world:
        written = {each: read(each, Path(rows), Path(folder) / each, world) for each in strategies.split(",")}
        if world.is_first:
            Path(out).write_text(json.dumps(written))


if __name__ == "__main__":
    main()
