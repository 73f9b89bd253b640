"""Brings the bins of a cut closer to their levels: swaps two rows of two bins, or moves one, until that helps no more.

Of few rows a greedy cut leaves the dearest bin several percent above others of its level. Numbers are added one at a
time, so that every machine gets the same bins.
"""

import numpy as np

_LEAST_GAIN = 1e-3  # of what a bin costs on average


def even_out(
    bins: list[np.ndarray], sizes: np.ndarray, costs: np.ndarray, capacity: int, levels: np.ndarray
) -> list[np.ndarray]:
    """Returns as many bins with the same rows, each of at most `capacity` and about as dear as its level.

    A row is an index into sizes and costs. levels: of each bin, what it should cost.
    """
    num_rows, num_bins = len(sizes), len(bins)
    none = np.arange(num_bins)  # behind the rows stands one that is none for each bin: to swap with it is to move
    sizes, costs = np.append(sizes, 0 * none), np.append(costs, 0.0 * none)
    home = np.append(np.zeros(num_rows, np.int64), none)
    for i, members in enumerate(bins):
        home[members] = i
    above, used = np.bincount(home, costs, num_bins) - levels, np.bincount(home, sizes, num_bins)
    least = (_LEAST_GAIN * costs.sum() / num_bins) ** 2

    def best_swap(i: int) -> tuple[int, int] | None:
        """Returns a row of bin i and one of another, whose swap lowers the sum of the squared distances the most."""
        mine, others = np.flatnonzero(home[:num_rows] == i)[:, None], np.flatnonzero(home != i)
        moved, grown, its = costs[mine] - costs[others], sizes[mine] - sizes[others], home[others]
        gain = moved * (above[i] - above[its] - moved)
        gain[(used[its] + grown > capacity) | (used[i] - grown > capacity)] = 0.0
        if not gain.size or gain.max() <= least:
            return None
        row, column = np.unravel_index(gain.argmax(), gain.shape)
        return int(mine[row, 0]), int(others[column])

    swapped = True
    while swapped:
        swapped = False
        for i in np.argsort(-above, kind="stable"):
            if (swap := best_swap(int(i))) is None:
                continue
            one, other = swap
            j = home[other]
            for amounts, of in ((above, costs), (used, sizes)):
                amounts[i] -= of[one] - of[other]
                amounts[j] += of[one] - of[other]
            home[one] = j
            if other < num_rows:
                home[other] = i
            swapped = True
    return [np.flatnonzero(home[:num_rows] == i) for i in range(num_bins)]
