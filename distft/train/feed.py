"""What each step eats: the micro-batches of this process, with the counts of the whole global batch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from distft.data.batches import Batch, collate
from distft.data.micro_batches import Cut
from distft.data.shards import Rows
from distft.data.steps import Order
from distft.models.flops import Flops
from distft.runtime.process_group import World

TILE = 128  # tokens: matrix units work in such tiles, and would pad by themselves


@dataclass(frozen=True)
class Feed:
    """Gives step base_step + i (from 1) the rows at positions borders[i - 1]..borders[i] of `order`."""

    rows: Rows
    order: Order
    borders: np.ndarray  # [steps from base_step + 1]
    cut: Cut
    world: World
    base_step: int = 0

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
        return [
            replace(to_device(self.rows, rows, self.world), cost=cost) for rows, cost in zip(mine, costs, strict=True)
        ]


def make_cut(rows: Rows, micro_rows: int | None, micro_tokens: int | None, flops: Flops) -> Cut:
    """Returns how rows are cut into micro-batches of at most `micro_rows` rows, or else of `micro_tokens` tokens."""
    costs = flops.of_rows(rows.lengths, rows.num_targets)
    if micro_rows:
        return Cut(np.ones(len(rows), dtype=np.int64), micro_rows, costs)
    assert micro_tokens is not None
    return Cut(rows.lengths, micro_tokens, costs)


def all_rows(rows: Rows, cut: Cut, world: World) -> Iterator[Batch]:
    """Yields this process's share of all rows, each row once over all processes."""
    for ranks in cut.micro_batches(np.arange(len(rows)), world.size):
        yield to_device(rows, ranks[world.rank], world)


def to_device(rows: Rows, indices: np.ndarray, world: World) -> Batch:
    """Returns a micro-batch where it is computed, on accelerators in whole tiles."""
    return collate(rows, indices, 1 if world.device.type == "cpu" else TILE).to(world.device)
