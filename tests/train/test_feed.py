"""What is made ahead is what the feed gives, step for step, and its errors come when its step does."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from distft.data.micro_batches import Cut
from distft.data.shards import Rows
from distft.data.steps import Order, row_borders
from distft.runtime.process_group import World
from distft.train.feed import Feed, Prefetch
from tests.rows import write_rows

WORLD = World(0, 1, 0, 1, torch.device("cpu"))


def feed_of(folder: Path, capacity: int = 32) -> Feed:
    rows = Rows(write_rows(folder), "train")
    cut = Cut(rows.lengths, capacity, rows.lengths.astype(np.float64))
    return Feed(rows, Order(len(rows), 0), row_borders(48, 8), cut, WORLD)


@pytest.mark.parametrize("steps", [range(1, 7), range(4, 7), [1, 4, 2]], ids=["from 1", "resumed", "out of order"])
def test_steps_get_their_own_batches(steps: range, tmp_path: Path) -> None:
    feed = feed_of(tmp_path)
    with closing(Prefetch(feed)) as ahead:
        for step in steps:
            for mine, expected in zip(ahead.batches(step), feed.batches(step), strict=True):
                assert torch.equal(mine.input_ids, expected.input_ids) and mine.lengths == expected.lengths


def test_an_error_comes_with_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = feed_of(tmp_path)
    real = Feed.batches

    def failing(self: Feed, step: int):
        if step == 2:
            raise OSError("the disk is gone")
        return real(self, step)

    monkeypatch.setattr(Feed, "batches", failing)
    with closing(Prefetch(feed)) as ahead:
        assert ahead.batches(1)
        with pytest.raises(OSError, match="the disk is gone"):
            ahead.batches(2)
