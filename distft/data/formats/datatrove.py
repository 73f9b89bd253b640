"""Documents of datatrove: {text, id, metadata, media}; every token of the text is trained."""

from distft.data.example import BadField, Example, RawJson, Segment, text_field

FIELDS = ("text", "metadata")
OPTIONAL = ("id", "media")


def fits(row: RawJson, names: dict[str, str]) -> bool:
    return isinstance(row[names["metadata"]], dict)


def example(row: RawJson, names: dict[str, str]) -> Example:
    if row.get(names["media"]):
        raise BadField(names["media"], "is not empty, and only text can be trained on")
    return Example((Segment("text", text_field(row, names["text"]), True),))
