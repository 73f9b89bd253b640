"""Which rows of a step meet in which forward, on which process: a pure function of the step's rows.

Every process gets as many micro-batches, at the same time ones of like cost, and in sum as much as the others: the
slowest decides when all go on.
"""

import heapq
from dataclasses import dataclass

import numpy as np

from distft.data.even_out import even_out

_MOST_EVENED_OUT = 512  # rows of a step; a cut of more is even without, and this would take longer than the reading


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
        bins = None
        while bins is None:
            bins = _fill(sizes, costs, self.capacity, accumulation * world)
            accumulation += 1
        if len(rows) <= _MOST_EVENED_OUT:
            bins = even_out(bins, sizes, costs, self.capacity)
        return [[rows[members] for members in ranks] for ranks in _deal(bins, costs, world)]


def _fill(sizes: np.ndarray, costs: np.ndarray, capacity: int, num_bins: int) -> list[np.ndarray] | None:
    """Puts each row, dearest first, into the cheapest bin that has room (Graham 1969); None when one finds no room."""
    members: list[list[int]] = [[] for _ in range(num_bins)]
    room = [capacity] * num_bins
    cheapest = [(0.0, i) for i in range(num_bins)]
    for row in np.argsort(-costs, kind="stable"):
        too_full = []
        while cheapest and room[cheapest[0][1]] < sizes[row]:
            too_full.append(heapq.heappop(cheapest))
        if not cheapest:
            return None
        cost, i = cheapest[0]
        heapq.heapreplace(cheapest, (cost + float(costs[row]), i))
        members[i].append(row)
        room[i] -= int(sizes[row])
        for entry in too_full:
            heapq.heappush(cheapest, entry)
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
