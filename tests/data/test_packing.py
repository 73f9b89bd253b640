"""A step is packed into micro-batches that hold each row once, fit, and cost every process the same.

Swaps bring bins closer to their levels, with the same rows and within their limits.
"""

import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.balance import excess
from distft.data.packing import MicroBatching, balance

LENGTHS = np.random.default_rng(0).integers(1, 50, 100)


def by_rows(micro: int) -> MicroBatching:
    return MicroBatching(np.ones(100, dtype=np.int64), micro, LENGTHS.astype(float))


def by_tokens(tokens: int) -> MicroBatching:
    return MicroBatching(LENGTHS, tokens, LENGTHS.astype(float))


def held(cut: list[list[np.ndarray]]) -> list[int]:
    return sorted(int(row) for ranks in cut for part in ranks for row in part)


@pytest.mark.slow
@given(st.integers(0, 40), st.integers(1, 6), st.integers(1, 4))
def test_every_row_is_used_once_and_ranks_have_equal_counts(rows: int, micro: int, world: int) -> None:
    picked = np.random.default_rng(1).permutation(100)[:rows]
    cut = by_rows(micro).micro_batches(picked, world)
    assert all(len(ranks) == world for ranks in cut)
    assert held(cut) == sorted(picked)
    assert all(len(part) <= micro for ranks in cut for part in ranks)
    assert len(cut) == max(1, -(-rows // (micro * world)))


@pytest.mark.slow
@given(st.integers(0, 60), st.integers(50, 200), st.integers(1, 4))
def test_micro_batches_never_exceed_their_tokens(rows: int, tokens: int, world: int) -> None:
    picked = np.random.default_rng(2).permutation(100)[:rows]
    cut = by_tokens(tokens).micro_batches(picked, world)
    assert held(cut) == sorted(picked)
    assert all(LENGTHS[part].sum() <= tokens for ranks in cut for part in ranks)
    assert all(len(ranks) == world for ranks in cut)


def test_one_micro_batch_is_added_if_the_last_row_does_not_fit() -> None:
    cut = MicroBatching(np.asarray([6, 6, 6]), 9, np.asarray([6.0, 6.0, 6.0]))  # no two rows fit 9
    assert [len(ranks[0]) for ranks in cut.micro_batches(np.arange(3), 1)] == [1, 1, 1]


def test_a_row_larger_than_a_micro_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 49 tokens does not fit into a micro-batch of 40"):
        by_tokens(40).micro_batches(np.arange(100), 1)


@pytest.mark.parametrize("tokens", [1024, 2048])
@pytest.mark.parametrize("world", [2, 4, 8])
def test_ranks_have_similar_costs_in_total_and_at_each_step(world: int, tokens: int) -> None:
    """Of rows up to 1,024 tokens, so that some fill a micro-batch alone."""
    random = np.random.default_rng(3)
    lengths = np.minimum(1024, (random.lognormal(4.2, 1.1, 2048)).astype(np.int64) + 8)  # median 75, mean about 130
    costs = lengths * 6e8 + lengths.astype(float) ** 2 * 1e5
    cut = MicroBatching(lengths, tokens, costs).micro_batches(np.arange(2048)[: 32 * world], world)
    of = np.asarray([[costs[part].sum() for part in ranks] for ranks in cut])  # [accumulation, world]
    assert of.sum(0).max() / of.sum(0).mean() < 1.03
    assert (of.max(1).sum()) / of.sum(0).mean() < 1.03, "all ranks wait for the most expensive one of each micro-batch"


@pytest.mark.parametrize("world", [2, 4, 8])
def test_few_rows_are_balanced_too(world: int) -> None:
    """Medians of ten steps of 8 rows a process, about as long as the demo's."""
    lengths = np.minimum(347, np.random.default_rng(5).lognormal(3.9, 0.5, 80 * world).astype(np.int64))
    cut = MicroBatching(lengths, 2048, lengths * 6e8 + lengths.astype(float) ** 2 * 1e5)
    steps = [cut.micro_batches(rows, world) for rows in np.arange(80 * world).reshape(10, -1)]
    assert np.median([excess(cut.costs, step) for step in steps]) < 0.005


def test_a_row_that_fills_a_micro_batch_does_not_limit_others() -> None:
    """10 and ten times 1, then five times 1 each: no rank waits. With 10, 7, 7 and 6 the other rank waits for 3."""
    lengths = np.append(10, np.ones(20, np.int64))
    cut = MicroBatching(lengths, 10, lengths.astype(float))
    assert excess(cut.costs, cut.micro_batches(np.arange(21), 2)) == 0.0


def test_full_micro_batches_are_not_scanned_for_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut of all held-out rows took half a minute of 20,000."""
    asked, pop = [], heapq.heappop
    monkeypatch.setattr(heapq, "heappop", lambda heap: asked.append(1) or pop(heap))
    lengths = np.minimum(1000, np.random.default_rng(6).lognormal(4.2, 1.1, 4096).astype(np.int64) + 8)
    costs = lengths * 6e8 + lengths.astype(float) ** 2 * 1e5
    MicroBatching(lengths, 1024, costs).micro_batches(np.arange(4096), 8)
    assert len(asked) < 4 * 4096


def test_packing_is_a_function_of_the_rows_alone() -> None:
    rows = np.random.default_rng(4).permutation(100)[:32]
    one, two = (by_tokens(96).micro_batches(rows, 2) for _ in range(2))
    for first, second in zip(one, two, strict=True):
        assert all((a == b).all() for a, b in zip(first, second, strict=True))


ALIKE = np.zeros(2)


def test_a_swap_improves_on_greedy_packing():
    """Graham's own case: 3 + 2 + 2 and 3 + 2 of five rows, where 3 + 3 and 2 + 2 + 2 are alike."""
    costs, ones = np.array([3.0, 3.0, 2.0, 2.0, 2.0]), np.ones(5, np.int64)
    found = balance([np.array([0, 2, 4]), np.array([1, 3])], ones, costs, 3, ALIKE)
    assert sorted(costs[members].sum() for members in found) == [6.0, 6.0]


def test_a_row_moves_only_to_a_bin_with_room():
    costs, sizes = np.array([4.0, 2.0, 2.0]), np.array([1, 1, 5])
    whole = [np.array([0, 1, 2]), np.array([], np.int64)]
    assert [list(members) for members in balance(whole, sizes, costs, 7, ALIKE)] == [[1, 2], [0]]
    two = [np.array([0, 1]), np.array([2])]
    assert [list(members) for members in balance(two, sizes, costs, 6, ALIKE)] == [[1, 2], [0]]
    assert [list(members) for members in balance(two, sizes, costs, 5, ALIKE)] == [[0, 1], [2]]


def test_the_cost_target_of_a_bin_follows_its_level():
    costs, ones = np.ones(8), np.ones(8, np.int64)
    found = balance([np.arange(4), np.arange(4, 8)], ones, costs, 8, np.array([6.0, 2.0]))
    assert [len(members) for members in found] == [6, 2]


@pytest.mark.parametrize("seed", range(50))
def test_balancing_keeps_rows_bins_and_limits(seed: int):
    random = np.random.default_rng(seed)
    num_rows, num_bins = random.integers(1, 80), random.integers(1, 9)
    sizes = random.integers(1, 100, num_rows)
    costs = sizes * 1.0 + sizes.astype(float) ** 2 * 0.01
    bins = np.array_split(random.permutation(num_rows), num_bins)
    levels = random.uniform(0, costs.sum() / num_bins, num_bins)
    capacity = int(max(sizes[members].sum() for members in bins))
    found = balance(bins, sizes, costs, capacity, levels)
    before, after = (np.array([costs[members].sum() for members in each]) - levels for each in (bins, found))
    assert len(found) == num_bins and sorted(np.concatenate(found)) == list(range(num_rows))
    assert max(sizes[members].sum() for members in found) <= capacity
    assert after.max() <= before.max() * (1 + 1e-12) and (after**2).sum() <= (before**2).sum() * (1 + 1e-12)
