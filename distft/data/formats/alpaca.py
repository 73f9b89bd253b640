"""Alpaca format: instruction, optional input (appended after a blank line) and output; trains on the output."""

from typing import Any

from distft.data.example import Example
from distft.data.formats import prompt_completion

FIELDS = ("instruction", "output")
OPTIONAL = ("input", "system")


def example(row: dict[str, Any], names: dict[str, str]) -> Example:
    return prompt_completion.pair(row, names | {"prompt": names["instruction"], "completion": names["output"]})
