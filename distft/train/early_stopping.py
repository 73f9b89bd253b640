"""When something is due: pure questions about a step number, and about the losses before it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isfinite


@dataclass(frozen=True)
class When:
    """Due every `every` steps, if set, and at the last step."""

    every: int | None
    last_step: int
    at_last: bool = True

    def due(self, step: int) -> bool:
        return (self.every is not None and step % self.every == 0) or (self.at_last and step == self.last_step)


@dataclass
class EarlyStopping:
    """Says stop after `patience` evaluations in a row without a loss better by more than `min_delta`.

    Better than the last loss that counted as better, as in Keras and Lightning: many small gains add up to one that
    counts. A loss that is not finite is never better. Rank 0 asks, and tells the others.
    """

    patience: int | None
    min_delta: float = 0.0
    best: float = field(default=float("inf"), init=False)  # the last that counted
    waited: int = field(default=0, init=False)

    def stop(self, loss: float) -> bool:
        """Takes the next evaluation's loss; returns whether the run should end."""
        if isfinite(loss) and loss < self.best - self.min_delta:
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        return self.is_over

    @property
    def is_over(self) -> bool:
        """Whether the run should end after the evaluations so far."""
        return self.patience is not None and self.waited >= self.patience

    def recall(self, losses: Iterable[float]) -> None:
        """Takes the evaluations of an earlier start."""
        for loss in losses:
            self.stop(loss)
