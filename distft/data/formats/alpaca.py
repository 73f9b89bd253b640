"""Alpaca format: instruction, optional input (appended after a blank line) and output; trains on the output."""

from distft.data.example import Example, RawJson
from distft.data.formats import prompt_completion

FIELDS = ("instruction", "output")
OPTIONAL = ("input", "system", "weight")


def example(row: RawJson, names: dict[str, str]) -> Example:
    return prompt_completion.pair(row, names | {"prompt": names["instruction"], "completion": names["output"]})
