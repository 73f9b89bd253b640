"""Training rows that contain texts of the rows that a held-out fraction takes from the same source.

Which rows are held out is known only after all decisions, so the rows are read again from what their blocks kept, and
compared as clean.leakage compares them with rows of a file.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from distft.data.cleaning.decide import Cleaning
from distft.data.cleaning.rules.leakage import Item, Rule
from distft.data.cleaning.tags import rows_as_read
from distft.data.cleaning.view import View, view_of
from distft.data.example import Example

OF_CONTEXT = ("system", "developer", "tool")  # roles whose texts many rows have in common

ExampleOf = Callable[[Any], Example]  # of a row as read
Masks = Sequence[np.ndarray]  # bool [rows], by chunk


def drop_leaks(cleaning: Cleaning, train: Masks, held_out: Masks, example_of: ExampleOf, drop: bool) -> int:
    """Finds the training rows that contain held-out texts, and returns how many; drop: takes them out of `train`."""
    rule = _rule(cleaning)
    if rule is None or not any(mask.any() for mask in held_out):
        return 0
    places = (view for _, view in _views(cleaning, held_out, example_of))
    rule = rule.indexed(_items(places))
    found = {row: finding for row, view in _views(cleaning, train, example_of) if (finding := rule.find(view))}
    for (start, chunk), mask in zip(cleaning.starts, train, strict=True):
        rows = [row - start for row in found if start <= row < start + chunk.batch.num_rows]
        mask[rows] = mask[rows] & (not drop)
    for row, finding in found.items():
        cleaning.add_leak(row, finding, drop)
    return len(found)


def _rule(cleaning: Cleaning) -> Rule | None:
    """Returns the leakage rule that is on, without what it looks for."""
    active = () if cleaning.cleaner is None else cleaning.cleaner.rules
    return next((Rule(each.rule.ngram, each.rule.threshold) for each in active if each.name == "leakage"), None)


def _views(cleaning: Cleaning, masks: Masks, example_of: ExampleOf) -> Iterator[tuple[int, View]]:
    """Yields the number and the view of each row of a mask."""
    for (start, chunk), mask in zip(cleaning.starts, masks, strict=True):
        if not mask.any():
            continue
        places = chunk.places
        for number, value in enumerate(rows_as_read(chunk.path)):
            if mask[number]:
                yield start + number, view_of(*places[number], example_of(value))


def _items(views: Iterator[View]) -> Iterator[Item]:
    for view in views:
        for text in view.texts:
            if text.role not in OF_CONTEXT:
                yield Item(f"{view.source}:{view.line}", text.text)
