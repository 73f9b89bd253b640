"""Packing: assigns the rows of a step to micro-batches and ranks, as a pure function of the step's rows.

Every rank gets the same number of micro-batches. Micro-batches computed at the same time have similar costs, and so
have the sums of the ranks, since the sleast_loaded rank sets the pace.

The rows are packed by LPT (longest processing time first) bin packing and, for small steps, improved by swaps: with few
rows, LPT leaves the largest bin several percent above its target.
Trap: costs are summed in a fixed order, so that every machine computes the same bins.
"""

import heapq
import math
from dataclasses import dataclass

import numpy as np

_MIN_GAIN = 1e-3  # of the mean cost of a bin


def balance(
    bins: list[np.ndarray], sizes: np.ndarray, costs: np.ndarray, capacity: int, targets: np.ndarray
) -> list[np.ndarray]:
    """Returns the bins after swapping and moving rows until each one's cost is close to its target.

    A row is an index into sizes and costs. The sizes of a bin add up to at most `capacity`.
    targets: the desired cost of each bin.
    """
    num_rows, num_bins = len(sizes), len(bins)
    none = np.arange(num_bins)  # one empty row per bin after the real ones: a swap with it is a move
    sizes, costs = np.append(sizes, 0 * none), np.append(costs, 0.0 * none)
    home = np.append(np.zeros(num_rows, np.int64), none)
    for i, members in enumerate(bins):
        home[members] = i
    above, used = np.bincount(home, costs, num_bins) - targets, np.bincount(home, sizes, num_bins)
    least = (_MIN_GAIN * costs.sum() / num_bins) ** 2

    def best_swap(i: int) -> tuple[int, int] | None:
        """Returns the row of bin i and the row of another bin whose swap reduces the squared error the most."""
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


_MAX_BALANCED_ROWS = 512  # per step; LPT alone balances larger steps to 2%, see docs/dev/decisions.md


@dataclass(frozen=True)
class MicroBatching:
    """Packs steps into micro-batches of rows whose sizes add up to at most `capacity`.

    sizes, costs: of every row of the data; a size is 1 where capacity is in rows, else the row's number of tokens.
    """

    sizes: np.ndarray
    capacity: int
    costs: np.ndarray

    def micro_batches(self, rows: np.ndarray, world: int) -> list[list[np.ndarray]]:
        """Returns the micro-batches of one step: result[i][rank] is an array of rows, empty for some of the last ones.

        Raises ValueError when one row is larger than a micro-batch.
        """
        sizes, costs = self.sizes[rows], self.costs[rows]
        if len(rows) and sizes.max() > self.capacity:
            raise ValueError(f"a row of {sizes.max()} tokens does not fit into a micro-batch of {self.capacity}")
        accumulation = max(1, -(-int(sizes.sum()) // (self.capacity * world)))
        targets = _target_costs(costs, accumulation, world)
        while (bins := _lpt(sizes, costs, self.capacity, targets)) is None:
            accumulation += 1
            targets = _target_costs(costs, accumulation, world)
        if len(rows) <= _MAX_BALANCED_ROWS:
            bins = balance(bins, sizes, costs, self.capacity, targets)
        return [[rows[members] for members in ranks] for ranks in _assign_ranks(bins, costs, world)]


def _target_costs(costs: np.ndarray, accumulation: int, world: int) -> np.ndarray:
    """Returns the target cost of each bin: the mean, or the cost of a row that exceeds it, for `world` bins at a time.

    Those `world` bins are computed at the same time, so ranks without the expensive row get as much work.
    """
    largest = np.append(np.sort(costs)[::-1], np.zeros(accumulation * world))
    left, targets = math.fsum(costs) / world, []
    for time in range(accumulation):
        targets.append(max(float(largest[time * world]), left / (accumulation - time)))
        left = max(0.0, left - targets[-1])
    return np.repeat(targets, world)


def _lpt(sizes: np.ndarray, costs: np.ndarray, capacity: int, targets: np.ndarray) -> list[np.ndarray] | None:
    """Assigns rows, largest cost first, to the bin with room that is the furthest below its target (LPT, Graham 1969).

    Returns None when a row fits no bin.
    """
    members: list[list[int]] = [[] for _ in targets]
    room = [capacity] * len(targets)
    least_loaded = [(-float(level), i) for i, level in enumerate(targets)]
    heapq.heapify(least_loaded)
    too_full: list[tuple[int, tuple[float, int]]] = []  # bins without room for an earlier row, the most room first
    for row in np.argsort(-costs, kind="stable"):
        while too_full and -too_full[0][0] >= sizes[row]:
            heapq.heappush(least_loaded, heapq.heappop(too_full)[1])
        while least_loaded and room[least_loaded[0][1]] < sizes[row]:
            entry = heapq.heappop(least_loaded)
            heapq.heappush(too_full, (-room[entry[1]], entry))
        if not least_loaded:
            return None
        above, i = least_loaded[0]
        heapq.heapreplace(least_loaded, (above + float(costs[row]), i))
        members[i].append(row)
        room[i] -= int(sizes[row])
    return [np.asarray(rows, dtype=np.int64) for rows in members]


def _assign_ranks(bins: list[np.ndarray], costs: np.ndarray, world: int) -> list[list[np.ndarray]]:
    """Assigns `world` bins of similar cost at a time to the ranks, the largest to the least loaded rank."""
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
