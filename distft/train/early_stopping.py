"""Evaluation during training: when it is due, and early stopping.

Trap: only rank 0 asks EarlyStopping and sends the answer to all; processes that compared alone could differ.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from distft.tasks.selection import BY_LOSS, Selection
from distft.train.overfitting import Overfitting


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
    """Stops after `patience` evaluations in a row without a value better by more than `min_delta`.

    The comparison is with the last value that was an improvement, as in Keras and Lightning: many small gains add up to
    one improvement. A value that is not finite is never an improvement.
    """

    patience: int | None  # None: never stops
    min_delta: float = 0.0
    selection: Selection = BY_LOSS  # which metric counts, and whether lower or higher is better
    best: float | None = field(default=None, init=False)  # the last improvement
    waited: int = field(default=0, init=False)  # evaluations since then

    def stop(self, metrics: Mapping[str, float]) -> bool:
        """Takes the metrics of the next evaluation; returns whether the run should end."""
        value = self.selection.value(metrics)
        if self.selection.is_better(value, self.best, self.min_delta):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        return self.is_over

    @property
    def is_over(self) -> bool:
        """Whether the run should end after the evaluations so far."""
        return self.patience is not None and self.waited >= self.patience

    def recall(self, evals: Iterable[Mapping[str, float]]) -> None:
        """Takes the evaluations of an earlier start: rows of metrics.jsonl."""
        for metrics in evals:
            self.stop(metrics)


@dataclass(frozen=True)
class Evaluator:
    """The evaluations of a run."""

    measure: (
        Callable[[], dict[str, float]] | None
    )  # the held-out metrics, made by all processes; None: no held-out rows
    when: When
    at_start: bool  # also before the first step
    stopping: EarlyStopping  # on rank 0, with the evaluations of earlier starts
    sample: Callable[[int], None] | None = None  # answers prompts after the evaluation of a step, on all processes
    measure_train: Callable[[], dict[str, float]] | None = None  # the same metrics of training rows; None: not wanted
    overfitting: Overfitting = field(default_factory=Overfitting)  # on rank 0, with the evaluations of earlier starts
    weights: Callable[[], AbstractContextManager[object]] = nullcontext  # puts the weights to evaluate in force

    def due(self, step: int) -> bool:
        return self.measure is not None and self.when.due(step)
