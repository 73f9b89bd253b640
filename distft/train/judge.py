"""Looks at every step's numbers: warns of what is unusual, and says how the run goes on after what is no number."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from distft.run import Plan, RunFolder
from distft.train.batch_file import batch_file, write_batch
from distft.train.feed import Feed
from distft.train.numerics import NonFinitePolicy, Warnings

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
    warnings: Warnings = field(default_factory=Warnings)

    def __call__(self, row: Row) -> Literal["go_on", "rewind"]:
        """Returns what comes next; NonFinite, or the check's RuntimeError, when the run must not go on."""
        step, is_skipped = row["step"], row.get("skipped", False)
        told = self.warnings.of(step, row["loss"], row["grad_norm"], is_skipped)
        if told:
            self.log({"step": step, "split": "warning", "text": "; ".join(told)})
            if self.feed.world.is_first:
                write_batch(self.run, self.plan, self.feed, self.seed, row, told)
        if self.check_every and step % self.check_every == 0:
            self.check_replicas()
        return self.policy.after(step, is_skipped, str(batch_file(self.run, step)))
