"""The batches of each optimizer step: the micro-batches of this process, with the counts of the whole global batch.

They are made in a thread of its own, beside the step in progress: collated, pinned, and on their way to the device.
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
TILE = 128  # tokens: matrix units work in such tiles, and would pad by themselves


@dataclass(frozen=True)
class Feed:
    """Gives step base_step + i (from 1) the rows at positions borders[i - 1]..borders[i] of `order`."""

    rows: Rows
    order: Order
    borders: np.ndarray  # [steps from base_step + 1]
    cut: MicroBatching
    world: World
    base_step: int = 0
    multiple_of: int = 1  # tokens that a micro-batch is filled up to

    @property
    def steps(self) -> int:
        return self.base_step + len(self.borders) - 1

    def position(self, step: int) -> int:
        """Returns where in `order` the step ends and the next one starts."""
        return int(self.borders[step - self.base_step])

    def rows_of(self, step: int) -> np.ndarray:
        """Returns the row indices of the step's global batch, in reading order."""
        return self.order.rows(self.position(step - 1), self.position(step))

    def num_targets(self, step: int) -> int:
        """Targets of the global batch, known from the data's index: no process has to ask another."""
        return int(self.rows.num_targets[self.rows_of(step)].sum())

    def num_tokens(self, step: int) -> int:
        """Real tokens of the global batch; padding is never counted."""
        return int(self.rows.lengths[self.rows_of(step)].sum())

    def forward_flops(self, step: int) -> float:
        """Operations of a forward over the global batch, all processes together."""
        return float(self.cut.costs[self.rows_of(step)].sum())

    def batches(self, step: int) -> list[Batch]:
        """Returns this process's micro-batches; every process has as many."""
        dealt = self.cut.micro_batches(self.rows_of(step), self.world.size)
        mine = [ranks[self.world.rank] for ranks in dealt]
        costs = [float(self.cut.costs[rows].sum()) for rows in mine]
        made = [
            replace(collate(self.rows, rows, self.multiple_of), cost=cost)
            for rows, cost in zip(mine, costs, strict=True)
        ]
        return to_device(made, self.world.device)


class Prefetch:
    """Gives each step's micro-batches, as the feed does, and begins with the next ones in a thread of its own."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self._pool = _thread(feed.world)
        self._ahead: tuple[int, Future[list[Batch]]] | None = None

    def batches(self, step: int) -> list[Batch]:
        """Returns this process's micro-batches of step `step`; what went wrong in making them is raised here."""
        ahead, self._ahead = self._ahead, None
        batches = ahead[1].result() if ahead and ahead[0] == step else self.feed.batches(step)
        if step < self.feed.steps:
            self._ahead = step + 1, self._pool.submit(self.feed.batches, step + 1)
        return batches

    def close(self) -> None:
        """Ends the thread; what it has made is dropped."""
        self._pool.shutdown(cancel_futures=True)


def make_cut(rows: Rows, micro_rows: int | None, micro_tokens: int | None, flops: Flops) -> MicroBatching:
    """Returns how rows are cut into micro-batches of at most `micro_rows` rows, or else of `micro_tokens` tokens."""
    costs = flops.of_rows(rows.lengths, rows.num_targets)
    if micro_rows:
        return MicroBatching(np.ones(len(rows), dtype=np.int64), micro_rows, costs)
    assert micro_tokens is not None
    return MicroBatching(rows.lengths, micro_tokens, costs)


def all_rows(rows: Rows, cut: MicroBatching, world: World, multiple_of: int = 1) -> Iterator[Batch]:
    """Yields this process's share of all rows, each row once over all processes; the next one is made meanwhile."""
    mine = [ranks[world.rank] for ranks in cut.micro_batches(np.arange(len(rows)), world.size)]
    yield from _made_ahead((partial(one_batch, rows, share, multiple_of, world) for share in mine), world)


def one_batch(rows: Rows, indices: np.ndarray, multiple_of: int, world: World) -> Batch:
    """Returns the rows at `indices` as a micro-batch where it is computed."""
    return to_device([collate(rows, indices, multiple_of)], world.device)[0]


def filled_up_to(micro_tokens: int | None, is_compiled: bool, device: torch.device) -> int:
    """Returns the tokens of which a micro-batch has a multiple, filled up by documents without targets.

    On accelerators whole tiles, and where layers are compiled and tokens counted one size for all, since another one
    would be compiled anew. micro_tokens: the most of a micro-batch, where tokens are counted.
    """
    if device.type == "cpu":
        return 1
    return micro_tokens if is_compiled and micro_tokens else TILE


def _made_ahead(makers: Iterable[Callable[[], T]], world: World) -> Iterator[T]:
    """Yields what each of them makes, the next one while the last is in use."""
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
