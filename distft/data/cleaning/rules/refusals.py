"""Answers that refuse, or talk of being an AI model: a fine-tuned model would learn to say so."""

import re
from dataclasses import dataclass

from distft.data.cleaning.contract import Finding
from distft.data.cleaning.view import View

VERSION = 1
_PHRASES = re.compile(
    r"""
    \bas\ an?\ (?:ai|artificial\ intelligence|(?:large\ )?language\ model)\b
    |\bi(?:'m|\ am)\ (?:just\ |only\ )?an?\ (?:ai|artificial\ intelligence|(?:large\ )?language\ model)\b
    |\b(?:sorry|apologi[sz]e|apologies|unfortunately)\b[^.!?\n]{0,40}\bi\ (?:can(?:no|')?t|am\ (?:not\ able|unable))
    |\bi(?:'m|\ am)\ (?:sorry|afraid)[^.!?\n]{0,20}\bi\ (?:can(?:no|')?t|do\ not|don't)\b
    |\bi(?:'m|\ am|\ can|\ wo)(?:not|'t|n't|\ unable\ to|\ not\ able\ to)\ (?:help|assist|comply|fulfill?|provide
      |generate|create|answer|do\ that|engage|discuss|support)\b
    |\bi\ (?:do\ not|don't)\ have\ (?:personal\ (?:opinions|feelings|experiences|beliefs)|access\ to\ real[- ]time)\b
    |\bmy\ (?:training\ data|knowledge\ cut-?off)\b
    |\b(?:against|violates?)\ (?:openai|my)\ (?:\w+\ )?(?:polic|guideline)
    """,
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True)
class Rule:
    window: int = 200

    def find(self, view: View) -> Finding | None:
        for text in view.texts:
            if (
                text.trained
                and text.role != "text"
                and (found := _PHRASES.search(text.text[: self.window].replace("\u2019", "'")))
            ):
                return Finding(f"the answer refuses: {found[0]!r}")
        return None
