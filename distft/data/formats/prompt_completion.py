"""Rows with a prompt and the completion to learn, and maybe a system text: trains on the completion alone."""

from typing import Any

from distft.data.example import Example, Segment, text_field

FIELDS = ("prompt", "completion")
OPTIONAL = ("system",)


def example(row: dict[str, Any], names: dict[str, str]) -> Example:
    system = names["system"]
    first = (Segment("system", text_field(row, system), False),) if row.get(system) else ()
    prompt = Segment("prompt", text_field(row, names["prompt"]), False)
    return Example((*first, prompt, Segment("completion", text_field(row, names["completion"]), True)))
