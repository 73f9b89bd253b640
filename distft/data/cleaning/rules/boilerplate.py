"""Web page furniture in a text: cookie notices, 'enable JavaScript', lorem ipsum, share buttons."""

import re
from dataclasses import dataclass

from distft.data.cleaning.contract import Finding
from distft.data.cleaning.view import View

VERSION = 1
_PHRASES = re.compile(
    r"lorem ipsum dolor|(?:enable|turn on|requires?) javascript|we use cookies|uses? cookies to|accept (?:all )?cookies"
    r"|cookie (?:policy|preferences|settings)|all rights reserved|subscribe to our newsletter|sign up for our|"
    r"click here to|share (?:this|on) (?:facebook|twitter|linkedin|x\b)|terms of (?:use|service) (?:and|\|) privacy|"
    r"your browser (?:is|does) not support|page not found|404 error|access denied|skip to (?:main )?content|"
    r"please (?:log|sign) in to|copyright ©|you have reached your (?:article )?limit|advertisement\n",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Rule:
    max_phrases: int = 0

    def find(self, view: View) -> Finding | None:
        text = view.answer or view.pair
        found = _PHRASES.findall(text)
        if len(found) <= self.max_phrases:
            return None
        return Finding(f"{len(found)} phrases of boilerplate, allowed are {self.max_phrases}: {found[0].strip()!r}")
