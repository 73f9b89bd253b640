"""Model selection: which evaluation of a run is its best, by `eval.metric` and `eval.goal`.

Early stopping, checkpoint.save_best, export.at=best, reports and sweeps all compare with a Selection, so they agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from distft.tasks.shown import LOWER_IS_BETTER

Goal = Literal["minimize", "maximize"]


def goal_of(metric: str, goal: str) -> Goal:
    """Returns eval.goal with `auto` resolved: errors, losses and calibration errors are minimized, others maximized."""
    if goal == "minimize" or goal == "maximize":
        return goal
    return "minimize" if metric in LOWER_IS_BETTER else "maximize"


@dataclass(frozen=True)
class Selection:
    """The metric of the held-out rows that decides, and whether lower or higher values are better."""

    metric: str = "loss"
    goal: Goal = "minimize"

    @staticmethod
    def of(metric: str, goal: str) -> "Selection":
        """goal: of eval.goal, `auto` too."""
        return Selection(metric, goal_of(metric, goal))

    @property
    def sign(self) -> int:
        """1 where lower values are better, -1 where higher ones are; `sign * value` sorts the best first."""
        return 1 if self.goal == "minimize" else -1

    @property
    def name(self) -> str:
        """The metric in messages, e.g. `held-out loss`."""
        return f"held-out {self.metric.replace('_', ' ')}"

    @property
    def superlative(self) -> str:
        return "lowest" if self.goal == "minimize" else "highest"

    @property
    def worse(self) -> str:
        """What a value that is not as good is."""
        return "higher" if self.goal == "minimize" else "lower"

    def value(self, metrics: Mapping[str, float | None]) -> float | None:
        """Returns the metric of an evaluation; None where it is missing or not finite, so never the best."""
        value = metrics.get(self.metric)
        return value if value is not None and isfinite(value) else None

    def is_better(self, value: float | None, than: float | None, min_delta: float = 0.0) -> bool:
        """Returns whether `value` is better than another by more than `min_delta`; any value is better than None."""
        if value is None:
            return False
        return than is None or self.sign * value < self.sign * than - min_delta

    def values(self, evals: Sequence[Mapping[str, float]]) -> dict[int, float]:
        """Returns the metric by step, of rows of metrics.jsonl; steps without a finite value are left out."""
        found = {int(row["step"]): self.value(row) for row in evals}
        return {step: value for step, value in found.items() if value is not None}

    def best_step(self, values: Mapping[int, float]) -> int | None:
        """Returns the step with the best value, the first of equal ones; None without a value."""
        return min(values, key=lambda step: (self.sign * values[step], step), default=None)


BY_LOSS = Selection()
