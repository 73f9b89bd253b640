"""The labels of prepared rows: the names of the classes, fixed by the training rows, or the number of values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]


@dataclass(frozen=True)
class Labels:
    """What the head of a model gives: `count` outputs per unit, of these classes, or values without names."""

    problem_type: ProblemType  # as in transformers' config
    count: int
    names: tuple[str, ...] = ()  # of classes, by their number

    @staticmethod
    def of(values: Mapping[str, Any] | None) -> "Labels | None":
        """Returns the labels that a manifest or plan holds; None where it holds none."""
        if values is None:
            return None
        return Labels(values["problem_type"], int(values["count"]), tuple(values["names"]))
