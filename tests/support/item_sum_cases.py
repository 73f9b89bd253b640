"""Measures rows and log-likelihoods on one group of real processes: `python -m tests.support.item_sum_cases OUT`."""

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from distft.data.shards import Rows
from distft.evaluate.benchmarks import Ranks
from distft.evaluate.item_sums import item_sums
from distft.runtime.process_group import World, process_group, texts_of_all
from tests.support.generate_cases import MODEL, ready
from tests.support.rows import write_rows

STRATEGIES = ("fsdp", "zero3")
COUNTS = (5, 31)
LIMITS = (2, None)


def pairs(count: int = 7) -> list[tuple[list[int], list[int]]]:
    """Returns contexts and continuations of random tokens and unequal lengths."""
    rng = random.Random(1)
    return [
        ([rng.randrange(10, 500) for _ in range(3 + 5 * i)], [rng.randrange(10, 500) for _ in range(1 + i % 3)])
        for i in range(count)
    ]


def rows_of(folder: Path, count: int) -> Rows:
    return Rows(write_rows(folder / str(count), train=1, held_out=count), "eval")


def measured(engine: Any, rows: Rows, world: World) -> list[list[dict[str, float]]]:
    """Returns the lines of every rank."""
    own = [dict(line) for line in item_sums(engine, rows, LIMITS, world)]
    return [json.loads(text) for text in texts_of_all(json.dumps(own), world)]


def scored(engine: Any, world: World) -> list[tuple[float, bool]] | None:
    """Returns the log-likelihoods on rank 0."""
    ranks = Ranks(engine, world, LIMITS, 128, lambda _: {})
    if not world.is_first:
        ranks.serve()
        return None
    found = ranks.score(pairs())
    ranks.end()
    return found


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with process_group() as world, tempfile.TemporaryDirectory() as folder:
        for strategy in STRATEGIES:
            engine = ready(MODEL, strategy, world)
            for count in COUNTS:
                found[f"{strategy} {count}"] = measured(engine, rows_of(Path(folder), count), world)
            found[f"{strategy} score"] = scored(engine, world)
        if world.is_first:
            Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
