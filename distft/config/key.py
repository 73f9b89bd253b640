"""What a user can set: one key, its types, its range and what it does.

Trap: bool is an int to Python, and an int is a fine float to a user; `Key.fits` keeps these apart.
"""

import re
from dataclasses import dataclass
from typing import Any

NULL = type(None)
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    dict: "a mapping",
    NULL: "null",
}


@dataclass(frozen=True)
class Key:
    """One key: its types, its range and what it does in a line."""

    path: str
    types: tuple[type, ...]
    help: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()  # the words allowed when the value is text
    pattern: str = ""  # instead: what text must match as a whole
    example: str = ""  # of such a text

    def rule(self) -> str:
        """Returns the rule in words: `a whole number of at least 1, or null`."""
        own_words = (*self.choices, *([self.example] if self.example else []))
        kinds = [kind for kind in self.types if kind is not NULL and not (kind is str and own_words)]
        words = [_WORDS[kind] + (self._bounds() if kind in (int, float) else "") for kind in kinds]
        words += own_words
        text = " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
        return text + (", or null" if NULL in self.types else "")

    def _bounds(self) -> str:
        bounds = [
            ("of at least", self.at_least),
            ("above", self.above),
            ("of at most", self.at_most),
            ("below", self.below),
        ]
        return " and".join(f" {word} {bound:g}" for word, bound in bounds if bound is not None)

    def fits_type(self, value: Any) -> bool:
        if isinstance(value, bool):
            return bool in self.types
        return isinstance(value, self.types) or (isinstance(value, int) and float in self.types)

    def fits(self, value: Any) -> bool:
        """Tells whether `value` has one of the types, and a number is in the range, and text is one of the words."""
        if not self.fits_type(value):
            return False
        if isinstance(value, str):
            return (
                value in self.choices if self.choices else re.fullmatch(self.pattern or ".*", value, re.S) is not None
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )
