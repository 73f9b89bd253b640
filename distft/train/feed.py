"""The batches of each optimizer step: the micro-batches of this process, with the counts of the whole global batch.

A prefetch thread collates, pins and copies the next step's batches while the current step runs.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from distft.data.batches import Batch, collate, to_device
from distft.data.order import Order
from distft.data.packing import MicroBatching
from distft.data.shards import Rows
from distft.models.flops import Flops
from distft.runtime.process_group import World

T = TypeVar("T")
TILE = 128  # tokens: matrix units compute in tiles and would pad anyway


@dataclass(frozen=True)
class Feed:
    """The rows of each step: step base_step + i (from 1) reads positions borders[i - 1]..borders[i] of `order`."""

    rows: Rows
    order: Order
    borders: np.ndarray  # [steps from base_step + 1]
    cut: MicroBatching
    world: World
    base_step: int = 0
    multiple_of: int = 1  # a micro-batch is padded to a multiple of so many tokens

    @property
    def steps(self) -> int:
        return self.base_step + len(self.borders) - 1

    def position(self, step: int) -> int:
        """Returns the position in `order` at which the step ends and the next one starts."""
        return int(self.borders[step - self.base_step])

    def rows_of(self, step: int) -> np.ndarray:
        """Returns the row indices of the step's global batch, in reading order."""
        return self.order.rows(self.position(step - 1), self.position(step))

    def num_targets(self, step: int) -> int:
        """Returns the targets of the global batch, from the index of the data: no collective is needed."""
        return int(self.rows.num_targets[self.rows_of(step)].sum())

    def target_weight(self, step: int) -> float:
        """Returns the sum of the targets' weights of the global batch: their number where no row has weights."""
        return float(self.rows.target_weight[self.rows_of(step)].sum())

    def num_tokens(self, step: int) -> int:
        """Returns the real tokens of the global batch, without padding."""
        return int(self.rows.lengths[self.rows_of(step)].sum())

    def forward_flops(self, step: int) -> float:
        """Returns the FLOPs of a forward over the global batch of all processes."""
        return float(self.cut.costs[self.rows_of(step)].sum())

    def batches(self, step: int) -> list[Batch]:
        """Returns this process's micro-batches; every process has the same number."""
        assigned = self.cut.micro_batches(self.rows_of(step), self.world.size)
        mine = [ranks[self.world.rank] for ranks in assigned]
        costs = [float(self.cut.costs[rows].sum()) for rows in mine]
        made = [
            replace(collate(self.rows, rows, self.multiple_of), cost=cost)
            for rows, cost in zip(mine, costs, strict=True)
        ]
        return to_device(made, self.world.device)


class Prefetch:
    """Makes the micro-batches of the next step in a background thread."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self._pool = _thread(feed.world)
        self._ahead: tuple[int, Future[list[Batch]]] | None = None

    def batches(self, step: int) -> list[Batch]:
        """Returns this process's micro-batches of `step`; raises the errors of the background thread."""
        ahead, self._ahead = self._ahead, None
        batches = ahead[1].result() if ahead and ahead[0] == step else self.feed.batches(step)
        if step < self.feed.steps:
            self._ahead = step + 1, self._pool.submit(self.feed.batches, step + 1)
        return batches

    def close(self) -> None:
        """Ends the thread and drops its batches."""
        self._pool.shutdown(cancel_futures=True)


def make_cut(rows: Rows, micro_rows: int | None, micro_tokens: int | None, flops: Flops) -> MicroBatching:
    """Returns the rule for cutting rows into micro-batches of at most `micro_rows` rows, else `micro_tokens` tokens."""
    costs = flops.of_rows(rows.lengths, rows.num_targets)
    if micro_rows:
        return MicroBatching(np.ones(len(rows), dtype=np.int64), micro_rows, costs)
    assert micro_tokens is not None
    return MicroBatching(rows.lengths, micro_tokens, costs)


def all_rows(
    rows: Rows, cut: MicroBatching, world: World, multiple_of: int = 1, indices: np.ndarray | None = None
) -> Iterator[Batch]:
    """Yields this process's share of the rows at `indices`, each row once over all processes, with prefetch.

    indices: None for all rows.
    """
    indices = np.arange(len(rows)) if indices is None else indices
    mine = [ranks[world.rank] for ranks in cut.micro_batches(indices, world.size)]
    yield from _made_ahead((partial(one_batch, rows, share, multiple_of, world) for share in mine), world)


def one_batch(rows: Rows, indices: np.ndarray, multiple_of: int, world: World) -> Batch:
    """Returns the rows at `indices` as a micro-batch on the device."""
    return to_device([collate(rows, indices, multiple_of)], world.device)[0]


def padding_multiple(micro_tokens: int | None, is_compiled: bool, device: torch.device) -> int:
    """Returns the multiple of tokens to which micro-batches are padded, by documents without targets.

    On accelerators a tile; for compiled layers with a token limit one size for all, since each new size recompiles.
    micro_tokens: the limit of a micro-batch in tokens, if it has one.
    """
    if device.type == "cpu":
        return 1
    return micro_tokens if is_compiled and micro_tokens else TILE


def _made_ahead(makers: Iterable[Callable[[], T]], world: World) -> Iterator[T]:
    """Yields the result of each maker, and makes the next one meanwhile."""
    with _thread(world) as pool:
        under_way: deque[Future[T]] = deque()
        for make in makers:
            under_way.append(pool.submit(make))
            if len(under_way) > 1:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def _thread(world: World) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "prefetch", initializer=world.enter_device)
