"""Peers read the rows of distft: the same in each step, or all of them grouped by length after the warm-up."""

from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.slow  # transformers is imported

LENGTHS = [5, 90, 7, 30, 11, 60, 3, 20] * 5  # five steps of eight rows


@pytest.fixture(scope="module")
def train():
    from benchmarks.peers import train

    return train


def orders(train, order: str, world: int = 1, accumulation: int = 1) -> list[list]:
    from datasets import Dataset

    rows = Dataset.from_dict({"input_ids": [[0] * length for length in LENGTHS]})
    arguments = [
        SimpleNamespace(world_size=world, process_index=rank, gradient_accumulation_steps=accumulation)
        for rank in range(world)
    ]
    return [list(train.sampler(order, rows, each, 8)) for each in arguments]


def test_in_order_is_in_order(train):
    assert orders(train, "distft") == [list(range(40))]


def test_grouping_by_length_keeps_all_rows_and_pads_less(train):
    [order] = orders(train, "by_length")
    assert order[:8] == list(range(8)) and sorted(order) == list(range(40))

    def padded(rows: list[int]) -> int:
        return sum(8 * max(LENGTHS[i] for i in rows[at : at + 8]) for at in range(8, 40, 8))

    assert padded(order) < 0.6 * padded(list(range(40)))


@pytest.mark.parametrize("world", [1, 2])
def test_rebalanced_steps_have_the_rows_of_distfts(train, world: int):
    ranks = orders(train, "rebalanced", world, accumulation=4 // world)
    steps = len(LENGTHS) // 8
    for step in range(steps):
        taken = slice(step * 4 // world, (step + 1) * 4 // world)
        rows = [row for rank in ranks for forward in rank[taken] for row in forward]
        assert sorted(rows) == list(range(8 * step, 8 * step + 8))


def test_forwards_are_counted_with_and_without_padding(train):
    import torch

    def collate(rows):
        return {"input_ids": torch.zeros(len(rows), 9)}

    counting = train.Counting(collate)
    counting([{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [1] * 9, "labels": [-100] * 9}])
    assert counting.forwards == [{"padded": 18, "lengths": [3, 9], "targets": [2, 0]}]
