"""Classes: the labels of all rows, fixed by the training rows when the shards are written.

Classes are in the order of their names, so they do not depend on the order of the rows.
Trap: a held-out row may have a class that no training row has. It is a bad row: no output would stand for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from distft.data.mixing import Selection
from distft.tasks import LabelKind
from distft.tasks.labels import Labels


@dataclass(frozen=True)
class LabelTable:
    """Puts the numbers of all rows' classes in place of those of a chunk."""

    labels: Labels

    def numbers(self, names: Sequence[str]) -> np.ndarray:
        """Returns the number of each of a chunk's classes, int64; -1 for one that no training row has."""
        known = {name: number for number, name in enumerate(self.labels.names)}
        return np.array([known.get(name, -1) for name in names], dtype=np.int64)

    def is_known(self, rows: pa.RecordBatch, names: Sequence[str]) -> np.ndarray:
        """Returns which rows of a chunk have labels that the training rows have, bool [rows]."""
        column = rows.column("labels")
        owner, values = _flat(column)
        if self.labels.problem_type == "regression":
            return np.bincount(owner, minlength=len(column)) == self.labels.count
        unknown = self.numbers(names)[values.astype(np.int64)] < 0
        return np.bincount(owner[unknown], minlength=len(column)) == 0

    def apply(self, rows: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
        """Returns the rows of a chunk, columns of the shards, with final labels."""
        if self.labels.problem_type == "regression":
            return rows
        column = rows.column("labels")
        owner, values = _flat(column)
        numbers = self.numbers(names)[values.astype(np.int64)]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(column)))])
        if self.labels.problem_type == "multi_label_classification":
            marks = np.zeros((len(column), self.labels.count), dtype=np.float32)
            marks[owner[numbers >= 0], numbers[numbers >= 0]] = 1
            numbers, offsets = marks.ravel(), np.arange(len(column) + 1) * self.labels.count
        made = pa.ListArray.from_arrays(offsets.astype(np.int32), pa.array(numbers.astype(np.float32)))
        return rows.set_column(rows.schema.get_field_index("labels"), "labels", made)


def _flat(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns the row of each value of a list column, int64, and the values."""
    counts = column.value_lengths().to_numpy()
    return np.repeat(np.arange(len(column)), counts), column.flatten().to_numpy()


@dataclass(frozen=True)
class UnknownLabel:
    """A held-out row whose label no training row has. file, line: where it was read."""

    split: str
    file: str
    line: int
    reason: str


def settle_labels(kind: LabelKind, selections: dict[str, Selection]) -> tuple[Labels | None, list[UnknownLabel]]:
    """Fixes the labels by the training rows, and sets them in the chunks of all selections; leaves out the held-out
    rows that have others, and returns these.

    Raises ValueError where training rows disagree on the number of values.
    """
    if kind == "none":
        return None, []
    train = selections["train"]
    table = LabelTable(_labels_of(kind, train))
    unknown = []
    for split, selection in selections.items():
        for number, chunk in enumerate(selection.chunks):
            names = chunk.counts["labels"]["names"]
            wrong = selection.masks[number] & ~table.is_known(chunk.batch, names)
            for row in np.flatnonzero(wrong):
                reason = _reason(table.labels, chunk.batch.column("labels")[int(row)].as_py(), names)
                unknown.append(UnknownLabel(split, *chunk.places[row], reason))
            selection.masks[number] = selection.masks[number] & ~wrong
        selection.chunks = [replace(chunk, labels=table) for chunk in selection.chunks]
    return table.labels, unknown


def _labels_of(kind: LabelKind, train: Selection) -> Labels:
    names, widths, has_lists = set[str](), set[int](), False
    for chunk, mask in zip(train.chunks, train.masks, strict=True):
        own, (owner, values) = chunk.counts["labels"], _flat(chunk.batch.column("labels"))
        has_lists |= own["has_lists"]
        widths |= set(np.bincount(owner, minlength=len(mask))[mask].tolist())
        names |= (
            {own["names"][i] for i in np.unique(values[mask[owner]].astype(np.int64))} if kind != "values" else set()
        )
    if kind == "values":
        if len(widths) > 1:
            raise ValueError(
                f"data.train: rows have {min(widths)} to {max(widths)} values as label, and a model gives the same "
                "number for every row. Try: the same number in each"
            )
        return Labels("regression", widths.pop() if widths else 1)
    ordered = tuple(sorted(names, key=lambda name: (int(name), "") if _is_number(names) else (0, name)))
    if len(ordered) < 2 and not has_lists:
        only = f"one label, {ordered[0]}" if ordered else "no label"
        raise ValueError(f"data.train: the rows have {only}, and there is nothing to learn. Try: rows of two classes")
    several = kind == "classes" and has_lists
    return Labels("multi_label_classification" if several else "single_label_classification", len(ordered), ordered)


def _is_number(names: set[str]) -> bool:
    return all(name.lstrip("-").isdigit() for name in names)


def _reason(labels: Labels, found: list[float], names: Sequence[str]) -> str:
    if labels.problem_type == "regression":
        return f"label: has {len(found)} values, and training rows have {labels.count}"
    new = sorted({names[int(number)] for number in found} - set(labels.names))
    return f"label: {', '.join(new)} is not a label of the training rows ({', '.join(labels.names[:9])})"
