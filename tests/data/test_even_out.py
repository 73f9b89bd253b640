"""Bins come closer to their levels, hold the same rows, and none more than it can."""

import numpy as np
import pytest

from distft.data.packing import even_out

ALIKE = np.zeros(2)


def test_where_the_greedy_cut_is_not_the_best_a_swap_is():
    """Graham's own case: 3 + 2 + 2 and 3 + 2 of five rows, where 3 + 3 and 2 + 2 + 2 are alike."""
    costs, ones = np.array([3.0, 3.0, 2.0, 2.0, 2.0]), np.ones(5, np.int64)
    found = even_out([np.array([0, 2, 4]), np.array([1, 3])], ones, costs, 3, ALIKE)
    assert sorted(costs[members].sum() for members in found) == [6.0, 6.0]


def test_a_row_moves_where_there_is_room_and_not_where_there_is_none():
    costs, sizes = np.array([4.0, 2.0, 2.0]), np.array([1, 1, 5])
    whole = [np.array([0, 1, 2]), np.array([], np.int64)]
    assert [list(members) for members in even_out(whole, sizes, costs, 7, ALIKE)] == [[1, 2], [0]]
    two = [np.array([0, 1]), np.array([2])]
    assert [list(members) for members in even_out(two, sizes, costs, 6, ALIKE)] == [[1, 2], [0]]
    assert [list(members) for members in even_out(two, sizes, costs, 5, ALIKE)] == [[0, 1], [2]]


def test_a_bin_is_as_much_dearer_as_its_level_is():
    costs, ones = np.ones(8), np.ones(8, np.int64)
    found = even_out([np.arange(4), np.arange(4, 8)], ones, costs, 8, np.array([6.0, 2.0]))
    assert [len(members) for members in found] == [6, 2]


@pytest.mark.parametrize("seed", range(50))
def test_the_same_rows_in_as_many_bins_none_too_full_and_closer(seed: int):
    random = np.random.default_rng(seed)
    num_rows, num_bins = random.integers(1, 80), random.integers(1, 9)
    sizes = random.integers(1, 100, num_rows)
    costs = sizes * 1.0 + sizes.astype(float) ** 2 * 0.01
    bins = np.array_split(random.permutation(num_rows), num_bins)
    levels = random.uniform(0, costs.sum() / num_bins, num_bins)
    capacity = int(max(sizes[members].sum() for members in bins))
    found = even_out(bins, sizes, costs, capacity, levels)
    before, after = (np.array([costs[members].sum() for members in each]) - levels for each in (bins, found))
    assert len(found) == num_bins and sorted(np.concatenate(found)) == list(range(num_rows))
    assert max(sizes[members].sum() for members in found) <= capacity
    assert after.max() <= before.max() * (1 + 1e-12) and (after**2).sum() <= (before**2).sum() * (1 + 1e-12)
