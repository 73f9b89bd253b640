"""The OOM probe runs the largest micro-batch after step 1 and changes nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distft.data.order import Order, row_borders
from distft.data.packing import MicroBatching
from distft.runtime.process_group import World
from distft.train.feed import Feed
from distft.train.oom_probe import longest
from tests.support.ranks import run_ranks
from tests.support.trained import STRATEGIES


class Lengths:
    """What a feed asks of rows to cut them."""

    def __init__(self, lengths: np.ndarray) -> None:
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)


def feed_of(lengths: np.ndarray, capacity: int, by_tokens: bool, seed: int) -> Feed:
    sizes = lengths if by_tokens else np.ones_like(lengths)
    cut = MicroBatching(sizes, capacity, lengths.astype(float) ** 1.2)
    rows: Any = Lengths(lengths)
    return Feed(
        rows, Order(len(lengths), seed), row_borders(len(lengths), 16), cut, World(0, 2, 0, 2, torch.device("cpu"))
    )


@pytest.mark.parametrize("by_tokens", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_the_probe_is_one_of_the_largest_micro_batches(by_tokens: bool, seed: int):
    chance = np.random.default_rng(seed)
    lengths = np.minimum(chance.lognormal(3, 1.2, 2000).astype(int) + 1, 512)
    feed = feed_of(lengths, 512 if by_tokens else 4, by_tokens, seed)
    every = [
        rows
        for step in range(1, feed.steps + 1)
        for ranks in feed.cut.micro_batches(feed.rows_of(step), 2)
        for rows in ranks
    ]
    found, tokens = longest(feed), [int(lengths[rows].sum()) for rows in every]
    assert any(np.array_equal(found, rows) for rows in every)
    assert lengths[found].sum() >= 0.98 * max(tokens)


@pytest.mark.slow
def test_the_probe_changes_no_bit_under_any_strategy(rows: Path, tmp_path: Path):
    base = {"model": "llama3_8b", "micro": 2, "rows": str(rows), "what": "longest"}
    cases = [base | {"strategy": strategy} for strategy in STRATEGIES]
    cases.append(base | {"strategy": "zero3", "precision": "bfloat16"})
    for case in cases:
        if case["strategy"] == "hsdp":
            case["settings"] = {"shard_size": 2}
    spec = tmp_path / "cases.json"
    spec.write_text(json.dumps(cases))
    for answer in run_ranks(2, "tests.train.spoilt", str(spec)):
        for rank in answer["ranks"]:
            first, tried, last = rank["spoilt"]["states"]
            assert first == tried, answer["case"]
            assert last == rank["twin"]["states"][-1] != first, answer["case"]
