"""Source code: {content}, and maybe path, language and licence; every token is trained, and a file is one document."""

from typing import Any

from distft.data.example import Example, Segment, text_field

FIELDS = ("content", "language")
OPTIONAL = ("path", "licence")


def example(row: dict[str, Any], names: dict[str, str]) -> Example:
    return Example((Segment("text", text_field(row, names["content"]), True),))
