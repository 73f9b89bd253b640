"""Prompt-completion format, with an optional system text: trains on the completion alone.

Alpaca rows are the same under other names; their `input` is appended to the prompt after a blank line.
"""

from distft.data.example import BadField, Example, RawJson, Segment, system_field, text_field, weight_field

FIELDS = ("prompt", "completion")
OPTIONAL = ("system", "input", "weight")


def example(row: RawJson, names: dict[str, str]) -> Example:
    prompt, more = names["prompt"], names["input"]
    if (prompt, more) == ("prompt", "input") and row.get(more) not in (None, ""):
        raise BadField(
            more,
            "is ambiguous: the prompt may contain it already. Try: data.ignore_fields=[input], "
            "or data.format=alpaca 'data.fields={instruction: prompt, output: completion}' to append it to the prompt",
        )
    return pair(row, names)


def pair(row: RawJson, names: dict[str, str]) -> Example:
    """Returns the example of a row, with its input appended to the prompt."""
    prompt, more = text_field(row, names["prompt"]), names["input"]
    if row.get(more) not in (None, ""):
        prompt += f"\n\n{text_field(row, more)}"
    completion = Segment("completion", text_field(row, names["completion"]), True)
    segments = (*system_field(row, names["system"]), Segment("prompt", prompt, False), completion)
    return Example(segments, weight=weight_field(row, names["weight"]))
