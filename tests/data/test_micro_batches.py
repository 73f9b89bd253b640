"""A step is cut into micro-batches that hold each of its rows once, fit, and cost every process the same."""

import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.balance import excess
from distft.data.packing import MicroBatching

LENGTHS = np.random.default_rng(0).integers(1, 50, 100)


def by_rows(micro: int) -> MicroBatching:
    return MicroBatching(np.ones(100, dtype=np.int64), micro, LENGTHS.astype(float))


def by_tokens(tokens: int) -> MicroBatching:
    return MicroBatching(LENGTHS, tokens, LENGTHS.astype(float))


def held(cut: list[list[np.ndarray]]) -> list[int]:
    return sorted(int(row) for ranks in cut for part in ranks for row in part)


@given(st.integers(0, 40), st.integers(1, 6), st.integers(1, 4))
def test_every_row_is_held_once_and_all_ranks_have_equally_many_micro_batches(
    rows: int, micro: int, world: int
) -> None:
    picked = np.random.default_rng(1).permutation(100)[:rows]
    cut = by_rows(micro).micro_batches(picked, world)
    assert all(len(ranks) == world for ranks in cut)
    assert held(cut) == sorted(picked)
    assert all(len(part) <= micro for ranks in cut for part in ranks)
    assert len(cut) == max(1, -(-rows // (micro * world)))


@given(st.integers(0, 60), st.integers(50, 200), st.integers(1, 4))
def test_tokens_fit_whatever_the_rows(rows: int, tokens: int, world: int) -> None:
    picked = np.random.default_rng(2).permutation(100)[:rows]
    cut = by_tokens(tokens).micro_batches(picked, world)
    assert held(cut) == sorted(picked)
    assert all(LENGTHS[part].sum() <= tokens for ranks in cut for part in ranks)
    assert all(len(ranks) == world for ranks in cut)


def test_rows_that_leave_no_room_for_the_last_get_one_micro_batch_more() -> None:
    cut = MicroBatching(np.asarray([6, 6, 6]), 9, np.asarray([6.0, 6.0, 6.0]))  # no two rows fit 9
    assert [len(ranks[0]) for ranks in cut.micro_batches(np.arange(3), 1)] == [1, 1, 1]


def test_a_row_larger_than_a_micro_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 49 tokens does not fit into a micro-batch of 40"):
        by_tokens(40).micro_batches(np.arange(100), 1)


@pytest.mark.parametrize("tokens", [1024, 2048])
@pytest.mark.parametrize("world", [2, 4, 8])
def test_processes_have_like_costs_in_sum_and_at_any_time(world: int, tokens: int) -> None:
    """Of rows up to 1,024 tokens, so that some fill a micro-batch alone."""
    random = np.random.default_rng(3)
    lengths = np.minimum(1024, (random.lognormal(4.2, 1.1, 2048)).astype(np.int64) + 8)  # median 75, mean about 130
    costs = lengths * 6e8 + lengths.astype(float) ** 2 * 1e5
    cut = MicroBatching(lengths, tokens, costs).micro_batches(np.arange(2048)[: 32 * world], world)
    of = np.asarray([[costs[part].sum() for part in ranks] for ranks in cut])  # [accumulation, world]
    assert of.sum(0).max() / of.sum(0).mean() < 1.03
    assert (of.max(1).sum()) / of.sum(0).mean() < 1.03, "what the dearest of each micro-batch takes, all wait for"


@pytest.mark.parametrize("world", [2, 4, 8])
def test_of_few_rows_too(world: int) -> None:
    """Medians of ten steps of 8 rows a process, about as long as the demo's."""
    lengths = np.minimum(347, np.random.default_rng(5).lognormal(3.9, 0.5, 80 * world).astype(np.int64))
    cut = MicroBatching(lengths, 2048, lengths * 6e8 + lengths.astype(float) ** 2 * 1e5)
    steps = [cut.micro_batches(rows, world) for rows in np.arange(80 * world).reshape(10, -1)]
    assert np.median([excess(cut.costs, step) for step in steps]) < 0.005


def test_beside_a_row_that_fills_a_micro_batch_the_others_are_filled_too() -> None:
    """10 and ten times 1 first, and five times 1 each then: nobody waits. Of 10, 7, 7 and 6 the other waits for 3."""
    lengths = np.append(10, np.ones(20, np.int64))
    cut = MicroBatching(lengths, 10, lengths.astype(float))
    assert excess(cut.costs, cut.micro_batches(np.arange(21), 2)) == 0.0


def test_full_micro_batches_are_not_asked_again_for_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut of all held-out rows took half a minute of 20,000."""
    asked, pop = [], heapq.heappop
    monkeypatch.setattr(heapq, "heappop", lambda heap: asked.append(1) or pop(heap))
    lengths = np.minimum(1000, np.random.default_rng(6).lognormal(4.2, 1.1, 4096).astype(np.int64) + 8)
    costs = lengths * 6e8 + lengths.astype(float) ** 2 * 1e5
    MicroBatching(lengths, 1024, costs).micro_batches(np.arange(4096), 8)
    assert len(asked) < 4 * 4096


def test_the_cut_is_a_function_of_the_rows_alone() -> None:
    rows = np.random.default_rng(4).permutation(100)[:32]
    one, two = (by_tokens(96).micro_batches(rows, 2) for _ in range(2))
    for first, second in zip(one, two, strict=True):
        assert all((a == b).all() for a, b in zip(first, second, strict=True))
