"""Tasks: what a model is trained to do. One file each; `model.task` is its name.

A task says what one unit of its loss is, which losses fit, which class of transformers is trained, what a row's labels
are, and which metrics follow. It imports neither torch nor numpy: the config's rules read it too.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the config reads tasks, and needs no numpy
    import numpy as np

Sums = Mapping[
    str, float
]  # what a loss summed in addition to its value, by name, over all units of a step or evaluation
Metrics = dict[str, float]
LabelKind = Literal["none", "classes", "values", "tags"]  # of a row; tags: one class per word


@dataclass(frozen=True)
class Evaluated:
    """All held-out units of an evaluation, each once, in the same order on every number of processes."""

    loss: float  # per unit
    outputs: "np.ndarray"  # float64 [U, C], of the model's head; [0, 0] where the task does not gather them
    labels: "np.ndarray"  # float64 [U, L], as in the rows: a class's number, one 0 or 1 per class, or values


@dataclass(frozen=True)
class Task:
    """One task. `loss` in metrics.jsonl is per unit; the denominator of a step is the sum of its units' weights."""

    name: str
    unit: Literal["token", "row", "pair"]
    losses: tuple[str, ...]  # words of conf/loss that fit; the first is the default
    model_class: str  # the class of transformers that is trained and that opens what is exported
    peft_type: str  # peft's name of the task
    formats: tuple[str, ...]  # of data.format, whose rows have its labels; empty: any rows of text
    labels: LabelKind  # what Example.label is; none: the loss needs tokens alone
    metrics: Callable[[Sums, int], Metrics]  # of the sums over so many units: in training and evaluation
    held_out: Callable[[Evaluated], Metrics]  # further ones, of all held-out units
    gathers: bool  # whether `held_out` needs every unit's outputs
    metric_names: tuple[str, ...]  # all that an evaluation has, `loss` included
    further_metrics: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by the word of a loss that has them

    def metrics_with(self, loss: str | None) -> tuple[str, ...]:
        """Returns the names of all metrics of an evaluation with this loss of conf/loss."""
        return (*self.metric_names, *self.further_metrics.get(loss or "", ()))


def load_task(name: str) -> Task:
    """Returns the task of that name; ValueError for an unknown one."""
    if name not in task_names():
        raise ValueError(f"model.task={name} is not a task. Allowed: {', '.join(task_names())}")
    return importlib.import_module(f"distft.tasks.{name}").TASK


def task_names() -> tuple[str, ...]:
    """Returns the names of all tasks: the files of this folder that define one."""
    others = {"labels", "metrics", "selection", "shown"}
    return tuple(sorted({file.stem for file in Path(__file__).parent.glob("[!_]*.py")} - others))
