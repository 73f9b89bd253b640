"""KTO: a prompt, one answer, and whether the answer is desirable (`label`: true or false)."""

from dataclasses import replace

from distft.data.example import BadField, Example, RawJson
from distft.data.formats import prompt_completion

FIELDS = ("prompt", "completion", "label")
OPTIONAL = prompt_completion.OPTIONAL
TASKS = ("preference",)


def example(row: RawJson, names: dict[str, str]) -> Example:
    label = row.get(names["label"])
    if not isinstance(label, bool) and label not in (0, 1):
        raise BadField(names["label"], f"is {label!r}, expected true or false")
    return replace(prompt_completion.example(row, names), label=bool(label))
