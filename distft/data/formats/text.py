"""Plain text format: trains on every token, the end-of-text token included."""

from typing import Any

from distft.data.example import Example, Segment, text_field

FIELDS = ("text",)
OPTIONAL = ()


def example(row: dict[str, Any], names: dict[str, str]) -> Example:
    return Example((Segment("text", text_field(row, names["text"]), True),))
