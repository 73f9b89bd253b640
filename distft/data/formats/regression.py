"""Regression: a text and a number, or a list of as many numbers in every row."""

from math import isfinite
from typing import Any

from distft.data.example import BadField, Example, RawJson, Segment, text_field, weight_field

FIELDS = ("text", "label")
OPTIONAL = ("weight",)
TASKS = ("regression",)


def fits(row: RawJson, names: dict[str, str]) -> bool:
    return isinstance(row[names["label"]], float)


def example(row: RawJson, names: dict[str, str]) -> Example:
    field = names["label"]
    label = row.get(field)
    values: list[Any] = label if isinstance(label, list) else [label]
    if not values or not all(map(_is_number, values)):
        raise BadField(field, f"is {label!r}, expected a finite number, or a list of them")
    text = Segment("text", text_field(row, names["text"]), False)
    found = tuple(map(float, values)) if isinstance(label, list) else float(values[0])
    return Example((text,), weight=weight_field(row, names["weight"]), label=found)


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and isfinite(value)
