"""Looks at every step's numbers: warns of what is unusual, and says how the run goes on after what is no number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from distft.run import Plan, RunFolder
from distft.train.batch_file import batch_file, write_batch
from distft.train.data_wait import DataWait, MemoryPressure
from distft.train.feed import Feed
from distft.train.numerics import NonFinitePolicy, Warnings
from distft.train.stragglers import Stragglers

Row = dict[str, Any]


@dataclass
class Judge:
    """Called by every process after each step, with the same row."""

    run: RunFolder
    plan: Plan
    feed: Feed
    seed: int
    policy: NonFinitePolicy
    log: Callable[[Row], None]
    check_replicas: Callable[[], None]  # raises when processes that should hold the same weights do not
    check_every: int | None
    stragglers: Stragglers
    warnings: Warnings = field(default_factory=Warnings)
    data_wait: DataWait = field(default_factory=DataWait)
    memory: MemoryPressure = field(default_factory=MemoryPressure)

    def __call__(self, row: Row, work: Sequence[float]) -> Literal["go_on", "rewind"]:
        """Returns what comes next; NonFinite, or the check's RuntimeError, when the run must not go on.

        work: of each rank, as distft.train.stragglers has it.
        """
        step, is_skipped = row["step"], row.get("skipped", False)
        told = self.warnings.of(step, row["loss"], row["grad_norm"], is_skipped)
        others = [*self.stragglers.of(work), *self.data_wait.of(row), *self.memory.of(row)]
        if told or others:
            self.log({"step": step, "split": "warning", "text": "; ".join([*told, *others])})
        if told and self.feed.world.is_first:
            write_batch(self.run, self.plan, self.feed, self.seed, row, told)
        if self.check_every and step % self.check_every == 0:
            self.check_replicas()
        return self.policy.after(step, is_skipped, str(batch_file(self.run, step)))
