"""Brings the bins of a cut closer in cost: swaps two rows of two bins, or moves one, until that helps no more.

Of few rows a greedy cut leaves the dearest bin several percent above the others. Numbers are added one at a time, so
that every machine gets the same bins.
"""

import numpy as np

_LEAST_GAIN = 1e-3  # of what a bin costs on average


def even_out(bins: list[np.ndarray], sizes: np.ndarray, costs: np.ndarray, capacity: int) -> list[np.ndarray]:
    """Returns as many bins with the same rows, each of at most `capacity`; a row is an index into sizes and costs."""
    num_rows, num_bins = len(sizes), len(bins)
    none = np.arange(num_bins)  # behind the rows stands one that is none for each bin: to swap with it is to move
    sizes, costs = np.append(sizes, 0 * none), np.append(costs, 0.0 * none)
    home = np.append(np.zeros(num_rows, np.int64), none)
    for i, members in enumerate(bins):
        home[members] = i
    load, used = np.bincount(home, costs, num_bins), np.bincount(home, sizes, num_bins)
    least = (_LEAST_GAIN * costs.sum() / num_bins) ** 2

    def best_swap(i: int) -> tuple[int, int] | None:
        """Returns a row of bin i and one of another, whose swap lowers the sum of the squared loads the most."""
        mine, others = np.flatnonzero(home[:num_rows] == i)[:, None], np.flatnonzero(home != i)
        moved, grown, its = costs[mine] - costs[others], sizes[mine] - sizes[others], home[others]
        gain = moved * (load[i] - load[its] - moved)
        gain[(used[its] + grown > capacity) | (used[i] - grown > capacity)] = 0.0
        if not gain.size or gain.max() <= least:
            return None
        row, column = np.unravel_index(gain.argmax(), gain.shape)
        return int(mine[row, 0]), int(others[column])

    while swap := next(filter(None, map(best_swap, np.argsort(-load, kind="stable"))), None):
        (one, other), (i, j) = swap, home[list(swap)]
        for amounts, of in ((load, costs), (used, sizes)):
            amounts[i] -= of[one] - of[other]
            amounts[j] += of[one] - of[other]
        home[one] = j
        if other < num_rows:
            home[other] = i
    return [np.flatnonzero(home[:num_rows] == i) for i in range(num_bins)]
