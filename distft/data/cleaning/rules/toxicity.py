"""Words of a list, one word or phrase per line; `*` at its end stands for any ending. Lines with # are comments."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from distft.data.cleaning.contract import Finding
from distft.data.cleaning.view import View
from distft.paths import absolute

VERSION = 1
LIST = Path(__file__).parents[1] / "toxic_words.txt"


@dataclass(frozen=True)
class Rule:
    words: str | None = None
    max_words: int = 0

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        path = LIST if self.words is None else absolute(self.words)
        lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
        terms = sorted({line.lower() for line in lines if line and not line.startswith("#")}, key=len, reverse=True)
        if not terms:
            raise ValueError(f"clean.toxicity.words={self.words}: the file lists no words")
        each = (r"\s+".join(map(re.escape, term.rstrip("*").split())) + r"\w*" * term.endswith("*") for term in terms)
        return re.compile(rf"\b(?:{'|'.join(each)})\b")

    def find(self, view: View) -> Finding | None:
        found = self._pattern.findall(view.pair.lower())
        if len(found) <= self.max_words:
            return None
        return Finding(f"{len(found)} listed words, allowed are {self.max_words}: {found[0][0]}...")
