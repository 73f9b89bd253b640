"""Alpaca's rows: instruction, maybe an input that ends the prompt after a blank line, and the output to learn."""

from typing import Any

from distft.data.example import Example
from distft.data.formats import prompt_completion

FIELDS = ("instruction", "output")
OPTIONAL = ("input", "system")


def example(row: dict[str, Any], names: dict[str, str]) -> Example:
    return prompt_completion.pair(row, names | {"prompt": names["instruction"], "completion": names["output"]})
