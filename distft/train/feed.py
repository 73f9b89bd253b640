"""What each step eats: the micro-batches of this process, with the counts of the whole global batch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from distft.data.batches import Batch, collate
from distft.data.shards import Rows
from distft.data.steps import Order, micro_batches
from distft.runtime.process_group import World


@dataclass(frozen=True)
class Feed:
    """Gives step base_step + i (from 1) the rows at positions borders[i - 1]..borders[i] of `order`."""

    rows: Rows
    order: Order
    borders: np.ndarray  # [steps from base_step + 1]
    micro_rows: int
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

    def batches(self, step: int) -> list[Batch]:
        """Returns this process's micro-batches; every process has as many."""
        cut = micro_batches(self.rows_of(step), self.rows.lengths, self.micro_rows, self.world.size)
        return [collate(self.rows, ranks[self.world.rank]).to(self.world.device) for ranks in cut]


def all_rows(rows: Rows, micro_rows: int, world: World) -> Iterator[Batch]:
    """Yields this process's share of all rows, each row once over all processes."""
    for ranks in micro_batches(np.arange(len(rows)), rows.lengths, micro_rows, world.size):
        yield collate(rows, ranks[world.rank]).to(world.device)
