"""Overfitting: held-out loss rises while the loss on training rows falls.

Both losses are of evaluations at the same steps, without dropout and label smoothing: the same rows each time, of
weights that do not change in between. The loss of a training step is of other rows and of weights before the update.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from distft.run import MetricsRow
from distft.runtime.determinism import seed_for, splitmix64

SPLIT = "train_eval"  # of metrics.jsonl: the evaluation on training rows
IN_A_ROW = 2  # evaluations: a single one may be noise
LEAST_RISE = 0.005  # of the lowest held-out loss


def rows_to_watch(num_rows: int, count: int, seed: int) -> np.ndarray:
    """Returns the indices of `count` training rows, ascending; all rows where there are no more. A function of the
    run's seed: every evaluation reads the same rows."""
    keys = np.arange(num_rows, dtype=np.uint64) + np.uint64(seed_for(seed, SPLIT))
    return np.sort(np.argsort(splitmix64(keys), kind="stable")[:count])


@dataclass(frozen=True)
class Losses:
    """Losses of one evaluation, nats per target."""

    step: int
    held_out: float
    train: float  # on the watched training rows

    @property
    def gap(self) -> float:
        return self.held_out - self.train


@dataclass
class Overfitting:
    """Warns once when the run overfits, and again only after held-out loss has reached a new minimum."""

    advice: Sequence[str] = ()
    best: Losses | None = field(default=None, init=False)  # of the lowest held-out loss
    times: int = field(default=0, init=False)  # evaluations in a row that overfit

    def of(self, losses: Losses) -> list[str]:
        """Takes the next evaluation; returns the warnings (usually none)."""
        best = self.best
        if best is None or losses.held_out < best.held_out:
            self.best, self.times = losses, 0
            return []
        rises = losses.held_out > best.held_out * (1 + LEAST_RISE)
        is_overfitting = rises and losses.train < best.train and losses.gap > best.gap
        self.times = self.times + 1 if is_overfitting else 0
        return [self._words(best, losses)] if self.times == IN_A_ROW else []

    def recall(self, rows: Iterable[MetricsRow]) -> None:
        """Takes the evaluations of an earlier start, from rows of metrics.jsonl, without warnings."""
        held_out: Mapping[int, float] = {}
        for row in rows:
            if row["split"] == "eval":
                held_out = {**held_out, row["step"]: row["loss"]}
            elif row["split"] == SPLIT and row["step"] in held_out:
                self.of(Losses(row["step"], held_out[row["step"]], row["loss"]))

    def _words(self, best: Losses, now: Losses) -> str:
        text = (
            f"overfitting: since step {best.step} held-out loss rose from {best.held_out:.4g} to {now.held_out:.4g}, "
            f"and on training rows it fell from {best.train:.4g} to {now.train:.4g}; the gap grew from {best.gap:.4g} "
            f"to {now.gap:.4g}"
        )
        return f"{text}. Try: {', or '.join(self.advice)}" if self.advice else text


def advice_for(patience: int | None, weight_decay: float, tuning: str | None, epochs: float) -> list[str]:
    """Returns changes that reduce overfitting, at most three: those that the run does not make yet.

    tuning: the word of the group. epochs: passes over the rows in the whole run.
    """
    found = [] if patience else ["eval.early_stopping.patience=3"]
    found += [f"train.epochs={max(1, int(epochs / 2))}"] if epochs >= 2 else []
    found += ["tuning=lora"] if tuning == "full" else []
    found += ["optimizer.weight_decay=0.1"] if weight_decay < 0.1 else []
    found += ["train.neftune_alpha=5", "more training rows"]
    return found[:3]
