"""Token classification: the words of a text and a tag for each, its name or number; null for a word without one."""

from distft.data.example import BadField, Example, RawJson, Segment, weight_field

FIELDS = ("words", "tags")
OPTIONAL = ("weight",)
TASKS = ("token_classification",)


def example(row: RawJson, names: dict[str, str]) -> Example:
    words, tags = (row.get(names[field]) for field in FIELDS)
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise BadField(names["words"], f"is {words!r}, expected a list of words")
    if not isinstance(tags, list) or len(tags) != len(words):
        raise BadField(names["tags"], f"is not a list of {len(words)} tags, one for each word")
    if wrong := [tag for tag in tags if tag is not None and (isinstance(tag, bool) or not isinstance(tag, str | int))]:
        raise BadField(names["tags"], f"has {wrong[0]!r}, expected the name or number of a tag, or null")
    segments = tuple(Segment("text", word, False) for word in words)
    return Example(segments, weight=weight_field(row, names["weight"]), label=tuple(tags))
