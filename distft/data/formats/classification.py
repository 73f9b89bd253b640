"""Classification: a text and its label, the name or number of a class, or a list of names where several apply."""

from distft.data.example import BadField, Example, RawJson, Segment, text_field, weight_field

FIELDS = ("text", "label")
OPTIONAL = ("weight",)
TASKS = ("sequence_classification",)


def fits(row: RawJson, names: dict[str, str]) -> bool:
    return not isinstance(row[names["label"]], float)


def example(row: RawJson, names: dict[str, str]) -> Example:
    field = names["label"]
    label = row.get(field)
    several = tuple(name for name in (label if isinstance(label, list) else [label]) if isinstance(name, str | int))
    if not several or (isinstance(label, list) and len(several) < len(label)):
        raise BadField(field, f"is {label!r}, expected the name or number of a class, or a list of them")
    if isinstance(label, str) and not label.strip():
        raise BadField(field, "is empty")
    text = Segment("text", text_field(row, names["text"]), False)
    found = several if isinstance(label, list) else several[0]
    return Example((text,), weight=weight_field(row, names["weight"]), label=found)
