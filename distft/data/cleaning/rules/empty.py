"""Answers without content: dots, 'n/a', 'null', invisible characters."""

import re
from dataclasses import dataclass

from distft.data.cleaning.contract import Finding
from distft.data.cleaning.view import View

VERSION = 1
_PLACEHOLDER = re.compile(r"(?:n\s*/?\s*a|null|none|nil|nan|undefined|todo|tbd|empty|no (?:answer|response|output))")
_PUNCTUATION = " \t\r\n.,;:!?-_*#'\"`()[]{}<>\u200b\u200c\u200d\u2060\ufeff\u00a0\u2026"


@dataclass(frozen=True)
class Rule:
    min_characters: int = 1

    def find(self, view: View) -> Finding | None:
        for text in view.texts:
            if text.trained:
                core = text.text.strip(_PUNCTUATION)
                if len(core) <= 16 and _PLACEHOLDER.fullmatch(core.lower()):
                    return Finding(f"the answer is the placeholder {core!r}")
                if len(core) < 64 and (count := sum(map(str.isalnum, core))) < self.min_characters:
                    # digits, math and emoji are answers too
                    if self.min_characters == 1 and any(ord(letter) > 127 or letter in "+=/%$&" for letter in core):
                        continue
                    return Finding(f"the answer has {count} letters and digits, below {self.min_characters}")
        return None
