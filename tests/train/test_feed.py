"""Prefetched batches are those of each step, and errors are raised at their step."""

import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distft.data.order import Order, row_borders
from distft.data.packing import MicroBatching
from distft.data.shards import Rows
from distft.runtime.process_group import World
from distft.train import feed as feed_module
from distft.train.feed import TILE, Feed, Prefetch, all_rows, padding_multiple
from tests.support.rows import write_rows

WORLD = World(0, 1, 0, 1, torch.device("cpu"))


def feed_of(folder: Path, capacity: int = 32) -> Feed:
    rows = Rows(write_rows(folder), "train")
    cut = MicroBatching(rows.lengths, capacity, rows.lengths.astype(np.float64))
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


def test_evaluation_batches_are_prefetched_once_in_order(tmp_path: Path) -> None:
    rows = Rows(write_rows(tmp_path), "eval")
    cut = MicroBatching(rows.lengths, 32, rows.lengths.astype(np.float64))
    expected = [ranks[0].tolist() for ranks in cut.micro_batches(np.arange(len(rows)), 1)]
    lengths = [batch.lengths for batch in all_rows(rows, cut, WORLD)]
    assert lengths == [tuple(int(rows.lengths[row]) for row in picked) for picked in expected]


@pytest.mark.parametrize(
    ("tokens", "is_compiled", "device", "multiple"),
    [(2048, True, "cuda", 2048), (2048, False, "cuda", TILE), (None, True, "cuda", TILE), (2048, True, "cpu", 1)],
)
def test_compiled_layers_get_one_size_on_accelerators(
    tokens: int | None, is_compiled: bool, device: str, multiple: int
) -> None:
    assert padding_multiple(tokens, is_compiled, torch.device(device)) == multiple


def test_batches_are_made_on_the_device_of_their_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new thread's current device is device 0."""
    entered: list[tuple[int, str]] = []
    entering = lambda index: entered.append((index, threading.current_thread().name))  # noqa: E731
    monkeypatch.setattr(torch.accelerator, "set_device_index", entering)
    monkeypatch.setattr(feed_module, "to_device", lambda batches, device: batches)
    feed = replace(feed_of(tmp_path), world=World(1, 1, 1, 2, torch.device("cuda", 1)))
    with closing(Prefetch(replace(feed, world=replace(feed.world, rank=0)))) as ahead:
        ahead.batches(1)
        ahead.batches(2)
    assert entered == [(1, "prefetch_0")]
