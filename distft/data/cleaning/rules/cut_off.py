"""Answers that end in the middle of a sentence, a word or a code block, as a token limit leaves them."""

import re
from dataclasses import dataclass

from distft.data.cleaning.contract import Finding
from distft.data.cleaning.view import View

VERSION = 1
_OPEN_ENDS = re.compile(
    r"(?:\b(?:the|a|an|of|and|or|to|in|on|at|by|for|with|from|as|is|are|was|were|be|that|which|because|but|if)"
    r"|[,(\[{\u2014-])\s*$",
    re.IGNORECASE,
)
_LETTER_END = re.compile(r"[^\W\d_]$")
_STRUCTURED = re.compile(r"^\s*(?:[-*\u2022|#>]|\d+[.)]|[\w ]{1,40}:)")  # a list item, table row, heading or field


@dataclass(frozen=True)
class Rule:
    min_words: int = 20

    def find(self, view: View) -> Finding | None:
        for text in view.texts:
            if not text.trained:
                continue
            if text.text.count("```") % 2:
                return Finding("the answer ends inside a code block")
            if "```" in text.text or text.text.count(" ") < self.min_words:
                continue
            tail = text.text.rstrip()[-200:]
            if _OPEN_ENDS.search(tail):
                return Finding(f"the answer ends in the middle of a sentence: {tail[-30:]!r}")
            last = tail.rpartition("\n")[2]
            has_sentences = re.search(r"[.!?]\s", text.text) is not None
            if has_sentences and _LETTER_END.search(tail) and not _STRUCTURED.match(last) and last.count(" ") >= 3:
                return Finding(f"the answer ends without the end of a sentence: {tail[-30:]!r}")
        return None
