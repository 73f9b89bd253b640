"""Source code: {content}, and maybe path, language and licence; every token is trained, and a file is one document."""

from distft.data.example import Example, RawJson, Segment, text_field

FIELDS = ("content", "language")
OPTIONAL = ("path", "licence")


def example(row: RawJson, names: dict[str, str]) -> Example:
    return Example((Segment("text", text_field(row, names["content"]), True),))
