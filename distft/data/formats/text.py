"""Plain text format: trains on every token, the end-of-text token included."""

from distft.data.example import Example, RawJson, Segment, text_field, weight_field

FIELDS = ("text",)
OPTIONAL = ("weight",)


def example(row: RawJson, names: dict[str, str]) -> Example:
    return Example((Segment("text", text_field(row, names["text"]), True),), weight=weight_field(row, names["weight"]))
