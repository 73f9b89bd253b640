"""Regression: a text and a number."""

from math import isfinite

from distft.data.example import BadField, Example, RawJson, Segment, text_field, weight_field

FIELDS = ("text", "label")
OPTIONAL = ("weight",)
TASKS = ("regression",)


def fits(row: RawJson, names: dict[str, str]) -> bool:
    return isinstance(row[names["label"]], float)


def example(row: RawJson, names: dict[str, str]) -> Example:
    value = row.get(names["label"])
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise BadField(names["label"], f"is {value!r}, expected a finite number")
    text = Segment("text", text_field(row, names["text"]), False)
    return Example((text,), weight=weight_field(row, names["weight"]), label=float(value))
