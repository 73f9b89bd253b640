"""When something is due: pure questions about a step number."""

from dataclasses import dataclass, field


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
    """Says stop after `patience` evaluations in a row without a loss better by `min_delta`.

    It sees the loss of all processes together, so all decide alike.
    """

    patience: int | None
    min_delta: float = 0.0
    best: float = field(default=float("inf"), init=False)
    waited: int = field(default=0, init=False)

    def stop(self, loss: float) -> bool:
        """Takes the next evaluation's loss; returns whether the run should end."""
        better = loss < self.best - self.min_delta
        self.best = min(loss, self.best)
        self.waited = 0 if better else self.waited + 1
        return self.patience is not None and self.waited >= self.patience
