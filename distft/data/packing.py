"""Which rows of a step meet in which forward, on which process: a pure function of the step's rows.

Every process gets as many micro-batches, at the same time ones of like cost, and in sum as much as the others: the
slowest decides when all go on.

Of few rows a greedy cut leaves the dearest bin several percent above others of its level. Numbers are added one at a
time, so that every machine gets the same bins.
"""

import heapq
import math
from dataclasses import dataclass

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


_MOST_EVENED_OUT = 512  # rows of a step; cuts of more were even to 2% without, see docs/dev/decisions.md


@dataclass(frozen=True)
class Cut:
    """How steps are cut: a micro-batch holds rows whose sizes add up to at most `capacity`.

    sizes, costs: of every row of the data; a size is 1 where rows are counted, else the row's tokens.
    """

    sizes: np.ndarray
    capacity: int
    costs: np.ndarray

    def micro_batches(self, rows: np.ndarray, world: int) -> list[list[np.ndarray]]:
        """Returns the micro-batches of one step: result[i][rank] holds rows, some of the last ones none.

        ValueError when a row alone is larger than a micro-batch.
        """
        sizes, costs = self.sizes[rows], self.costs[rows]
        if len(rows) and sizes.max() > self.capacity:
            raise ValueError(f"a row of {sizes.max()} tokens does not fit into a micro-batch of {self.capacity}")
        accumulation = max(1, -(-int(sizes.sum()) // (self.capacity * world)))
        levels = _levels(costs, accumulation, world)
        while (bins := _fill(sizes, costs, self.capacity, levels)) is None:
            accumulation += 1
            levels = _levels(costs, accumulation, world)
        if len(rows) <= _MOST_EVENED_OUT:
            bins = even_out(bins, sizes, costs, self.capacity, levels)
        return [[rows[members] for members in ranks] for ranks in _deal(bins, costs, world)]


def _levels(costs: np.ndarray, accumulation: int, world: int) -> np.ndarray:
    """Returns what each bin should cost: all the same, but where a row alone costs more, `world` bins as much as it.

    These are computed at the same time: while one process has that row, the others have as much to do.
    """
    dearest = np.append(np.sort(costs)[::-1], np.zeros(accumulation * world))
    left, levels = math.fsum(costs) / world, []
    for time in range(accumulation):
        levels.append(max(float(dearest[time * world]), left / (accumulation - time)))
        left = max(0.0, left - levels[-1])
    return np.repeat(levels, world)


def _fill(sizes: np.ndarray, costs: np.ndarray, capacity: int, levels: np.ndarray) -> list[np.ndarray] | None:
    """Puts each row, dearest first, into the bin with room that is farthest below its level; None when none has room.

    That is Graham's list scheduling (1969), where levels are alike.
    """
    members: list[list[int]] = [[] for _ in levels]
    room = [capacity] * len(levels)
    lowest = [(-float(level), i) for i, level in enumerate(levels)]
    heapq.heapify(lowest)
    too_full: list[tuple[int, tuple[float, int]]] = []  # for a row before, the one with the most room first
    for row in np.argsort(-costs, kind="stable"):
        while too_full and -too_full[0][0] >= sizes[row]:
            heapq.heappush(lowest, heapq.heappop(too_full)[1])
        while lowest and room[lowest[0][1]] < sizes[row]:
            entry = heapq.heappop(lowest)
            heapq.heappush(too_full, (-room[entry[1]], entry))
        if not lowest:
            return None
        above, i = lowest[0]
        heapq.heapreplace(lowest, (above + float(costs[row]), i))
        members[i].append(row)
        room[i] -= int(sizes[row])
    return [np.asarray(rows, dtype=np.int64) for rows in members]


def _deal(bins: list[np.ndarray], costs: np.ndarray, world: int) -> list[list[np.ndarray]]:
    """Gives `world` bins of like cost at a time to the processes, the dearest to the one with the least so far."""
    cost_of = [float(costs[members].sum()) for members in bins]
    order = sorted(range(len(bins)), key=lambda i: (-cost_of[i], i))
    so_far = np.zeros(world)
    dealt = []
    for start in range(0, len(bins), world):
        ranks: list[np.ndarray] = [bins[0]] * world
        for rank, i in zip(np.argsort(so_far, kind="stable"), order[start : start + world], strict=True):
            ranks[rank] = bins[i]
            so_far[rank] += cost_of[i]
        dealt.append(ranks)
    return dealt
