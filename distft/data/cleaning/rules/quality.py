"""Text quality by the heuristics of Gopher and C4, each with its own threshold; code blocks are not judged.

Source: Rae et al., Scaling Language Models (Gopher), 2021, table A1; Raffel et al., T5 (C4), 2020, section 2.2.
"""

import re
from collections import Counter
from dataclasses import dataclass

from distft.data.cleaning.contract import Finding
from distft.data.cleaning.rules.language import without_code
from distft.data.cleaning.view import View

VERSION = 1
_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_BULLETS = ("-", "*", "\u2022", "\u25cf", "\u25aa", "\u2023")
_ELLIPSIS = ("...", "\u2026")
_REPEATED_RUN = 5  # words
_MIN_JUDGED = 10  # words: a shorter text has no meaningful shares
_HAS_WORD = re.compile(r"[^\W_]")
_HAS_LETTER = re.compile(r"[^\W\d_]")
_SPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True)
class Rule:
    min_words: int = 0
    max_words: int = 100_000
    min_word_length: float = 2.0
    max_word_length: float = 12.0
    max_symbols: float = 0.1
    max_bullets: float = 1.0
    max_ellipsis: float = 0.3
    min_alphabetic: float = 0.5
    min_stop_words: int = 0
    max_repeated: float = 0.5

    def find(self, view: View) -> Finding | None:
        text = view.answer or view.pair
        if "```" in text:
            text, _ = without_code(text)
        words = text.split()
        reason = self._of_words(text, words) or (self._of_lines(text) if len(words) >= _MIN_JUDGED else None)
        reason = reason or (self._of_repetition(words) if len(words) >= 4 * _MIN_JUDGED else None)
        return Finding(reason) if reason else None

    def _of_words(self, text: str, words: list[str]) -> str | None:
        count = len(words)
        if not self.min_words <= count <= self.max_words:
            return f"{count} words, allowed are {self.min_words} to {self.max_words}"
        real = [len(word) for word in words if _HAS_WORD.search(word)]  # without the marks of lists and tables
        if len(real) < _MIN_JUDGED or _SPACED.search(text):  # words without spaces cannot be measured
            return None
        mean = sum(real) / len(real)
        if not self.min_word_length <= mean <= self.max_word_length:
            return f"words of {mean:.1f} characters, allowed are {self.min_word_length:g} to {self.max_word_length:g}"
        symbols = (text.count("#") + text.count("...") + text.count("\u2026")) / count
        if symbols > self.max_symbols:
            return f"{symbols:.2f} symbols per word, above {self.max_symbols:g}"
        alphabetic = sum(_HAS_LETTER.search(word) is not None for word in words) / count
        if alphabetic < self.min_alphabetic:
            return f"{alphabetic:.0%} of the words have a letter, below {self.min_alphabetic:.0%}"
        if self.min_stop_words and (found := len(_STOP_WORDS & set(map(str.lower, words)))) < self.min_stop_words:
            return f"{found} different stop words, below {self.min_stop_words}"
        return None

    def _of_lines(self, text: str) -> str | None:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        bullets = sum(line.startswith(_BULLETS) for line in lines) / len(lines)
        if bullets > self.max_bullets:
            return f"{bullets:.0%} of the lines are bullets, above {self.max_bullets:.0%}"
        ellipsis = sum(line.endswith(_ELLIPSIS) for line in lines) / len(lines)
        if ellipsis > self.max_ellipsis and len(lines) > 1:
            return f"{ellipsis:.0%} of the lines end with an ellipsis, above {self.max_ellipsis:.0%}"
        repeated = 1 - len(set(lines)) / len(lines)
        if repeated > self.max_repeated:
            return f"{repeated:.0%} of the lines repeat others, above {self.max_repeated:.0%}"
        return None

    def _of_repetition(self, words: list[str]) -> str | None:
        """Returns what is wrong where the text loops; the mark of a model that repeats itself."""
        runs = Counter(zip(*(words[i:] for i in range(_REPEATED_RUN)), strict=False))
        repeated = 1 - len(runs) / runs.total()
        if repeated > self.max_repeated:
            return f"{repeated:.0%} of the {_REPEATED_RUN}-word runs repeat others, above {self.max_repeated:.0%}"
        return None
