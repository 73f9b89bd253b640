"""Regular expression: whether an answer matches, or gives the same first group as the expected text.

`regex.pattern='#### ([0-9]+)'` compares the last such number in both.
"""

import re
from collections.abc import Mapping

from distft.evaluate.scores import Counts
from distft.evaluate.statistics import Value, mean


class Score:
    metrics: Mapping[str, Value] = {"regex": mean}
    binary = frozenset({"regex"})

    def __init__(self, pattern: str = "") -> None:
        if not pattern:
            raise ValueError(r"needs a pattern. Try: regex.pattern='#### (-?\d+)'")
        try:
            self.pattern = re.compile(str(pattern))
        except re.error as error:
            raise ValueError(f"pattern={pattern}: {error}") from error
        what = "first group of its last match, against the expected text's" if self.pattern.groups else "found or not"
        self.normalization = f"{pattern}: {what}"

    def __call__(self, answer: str, expected: str) -> Mapping[str, Counts]:
        if not self.pattern.groups:
            return {"regex": (float(self.pattern.search(answer) is not None), 1.0)}
        ours, theirs = self._last(answer), self._last(expected)
        return {"regex": (float(ours is not None and ours == (expected.strip() if theirs is None else theirs)), 1.0)}

    def _last(self, text: str) -> str | None:
        groups = [found.group(1) for found in self.pattern.finditer(text)]
        return groups[-1] if groups else None
