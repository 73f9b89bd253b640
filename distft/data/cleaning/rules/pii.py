"""Personal data and secrets: found, dropped or redacted; each kind has a pattern and a check.

Cards need Luhn's check digit and an issuer's prefix, IBANs their check digits and length, phone numbers those of their
country by phonenumbers, addresses a public range. Hard negatives decide the precision: versions, ISBNs, commit hashes,
example.com and private addresses are not personal data.
A redacted text has `<EMAIL>` in place of a value; none of them matches a pattern, so redaction is idempotent.
"""

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from distft.data.cleaning.contract import Change, Finding

VERSION = 1
NEEDS = ("phonenumbers",)

_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+%-]{0,63}@(?:[A-Za-z0-9](?:[\w-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}\b"
)
_RESERVED = re.compile(r"(?:^|\.)(?:example\.(?:com|org|net|edu)|example|test|invalid|localhost|local|domain\.com)$")
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
_ISSUER = re.compile(  # prefix and length: Visa, Mastercard, American Express, Discover, Diners, JCB, UnionPay
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720))\d*(?<=\d{16})|3[47]\d{13}|"
    r"6(?:011|4[4-9]|5)\d*(?<=\d{16})|3(?:0[0-5]|[689])\d*(?<=\d{14})|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
)
_IBAN = re.compile(r"\b[A-Z]{2}\d\d(?: ?[A-Z0-9]){11,30}\b")
_LENGTHS = (  # of an IBAN by country
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 "
    "FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 "
    "LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 "
    "SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20"
)
_IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _LENGTHS.split()}
_IP4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_IP6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_DOTTED, _COLONS = re.compile(r"\d\.\d"), re.compile(r"::|[0-9A-Fa-f]:[0-9A-Fa-f]")
_VERSION_BEFORE = re.compile(
    r"(?:\bv|version|release|build|firmware|driver|chrome/|edg/|==|>=|<=|~=|@|section|chapter|clause|figure|table|\u00a7)"
    r"[ :=]*\Z",
    re.I,
)
_SSN = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-])")
_PHONE_HINT = re.compile(r"(?<![\w.])(?:\+|\()?\d[\d ().\u2011\u2013/-]{5,22}\d")
_PHONE_DIGITS = 7  # of the shortest numbers, with the code of their country
_PHONE_FORM = re.compile(r"[+() .\u2011\u2013/-]")
_SECRET = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,255}\b|\bgithub_pat_\w{60,255}\b|\bglpat-[\w-]{20,64}\b|"
    r"\bxox[abeprs]-[\w-]{10,250}\b|\bsk-(?:ant-|proj-|or-)?[\w-]{20,250}|\b(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,250}\b|"
    r"\bhf_[A-Za-z0-9]{30,64}\b|\bnpm_[A-Za-z0-9]{36}\b|\bpypi-[\w-]{50,250}|\bAIza[\w-]{35}\b|\bya29\.[\w-]{20,250}|"
    r"\bSG\.[\w-]{16,64}\.[\w-]{16,64}\b|\beyJ[\w-]{10,2000}\.eyJ[\w-]{10,4000}\.[\w-]{10,2000}\b|"
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----[\s\S]{0,8000}?(?:-----END (?:[A-Z]+ )*PRIVATE KEY-----|\Z)"
)
_MARKS = (  # each match of _SECRET holds one: looking for them first is ten times as fast
    "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox", "sk-", "sk_", "rk_", "pk_",
    "hf_", "npm_", "pypi-", "AIza", "ya29.", "SG.", "eyJ", "-----BEGIN",
)  # fmt: skip
_ASSIGNED = re.compile(
    r"(?:api[_-]?key|secret|token|passw(?:or)?d|auth)\w*[\"']?\s*(?:=|:)\s*[\"']?([A-Za-z0-9+/_.~-]{16,256}=*)", re.I
)
_ASSIGNED_WORDS = ("api", "secret", "token", "passw", "auth")  # each match of _ASSIGNED holds one
_MIN_ENTROPY = 3.5  # bits per character: random text of base 64 has above 4, words have about 3

Span = tuple[int, int]


def emails(text: str) -> Iterator[Span]:
    if "@" in text:
        for found in _EMAIL.finditer(text):
            if not _RESERVED.search(found[0].rpartition("@")[2].lower()):
                yield found.span()


def cards(text: str) -> Iterator[Span]:
    for found in _CARD.finditer(text):
        digits = re.sub(r"\D", "", found[0])
        if _ISSUER.fullmatch(digits) and len(set(digits)) > 1 and luhn(digits):
            yield found.span()


def luhn(digits: str) -> bool:
    """Returns whether the last digit is Luhn's check digit of the others."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[::-2])) + sum(doubled)) % 10 == 0


def ibans(text: str) -> Iterator[Span]:
    for found in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(found[0][:2], 0)
        end = _after(text, found.start(), length)
        value = text[found.start() : end].replace(" ", "")
        if len(value) == length and not text[end : end + 1].isalnum() and _mod_97(value) == 1:
            yield found.start(), end


def _after(text: str, position: int, count: int) -> int:
    """Returns the position after `count` characters that are not spaces."""
    while count and position < len(text):
        count -= text[position] != " "
        position += 1
    return position


def _mod_97(iban: str) -> int:
    return int("".join(str(int(letter, 36)) for letter in iban[4:] + iban[:4])) % 97


def addresses(text: str, private: bool = False) -> Iterator[Span]:
    """Yields IP addresses in a public range; with `private` those in a private one."""
    for pattern, part in ((_IP4, _DOTTED), (_IP6, _COLONS)):
        if part.search(text) is None:  # each match holds one: ten times as fast
            continue
        for found in pattern.finditer(text):
            if pattern is _IP4 and _VERSION_BEFORE.search(text, max(0, found.start() - 16), found.start()):
                continue
            if pattern is _IP6 and not _is_written_as_address(found[0]):
                continue
            try:
                address = ipaddress.ip_address(found[0])
            except ValueError:
                continue
            if address.is_private if private else address.is_global and not address.is_multicast:
                yield found.span()


def _is_written_as_address(text: str) -> bool:
    """Returns whether text with colons is an address rather than code: `::1` and `2001:4860::8888`, not `a::b`."""
    return text == "::1" or (len(text.replace(":", "")) >= 5 and any(letter.isdigit() for letter in text))


def social_security_numbers(text: str) -> Iterator[Span]:
    return (found.span() for found in _SSN.finditer(text))


def phones(text: str, region: str = "US") -> Iterator[Span]:
    """Yields numbers that are valid in their country and written as phone numbers are, not as one run of digits."""
    hints = [found for found in _PHONE_HINT.finditer(text) if _PHONE_FORM.search(found[0])]
    hints = [found for found in hints if sum(map(str.isdigit, found[0])) >= _PHONE_DIGITS]
    if not hints:
        return
    from phonenumbers import Leniency, PhoneNumberMatcher

    end = 0
    for found in hints:
        start = max(found.start() - 1, end)
        window = text[start : found.end() + 16]  # an extension follows the number
        for match in PhoneNumberMatcher(window, region, leniency=Leniency.VALID):
            marks = _PHONE_FORM.findall(match.raw_string.lstrip("("))
            if not marks or marks == ["."] or start + match.start < end:  # one run of digits, a decimal number
                continue
            end = start + match.end
            yield start + match.start, end


def secrets(text: str) -> Iterator[Span]:
    if any(mark in text for mark in _MARKS):
        yield from (found.span() for found in _SECRET.finditer(text))
    lowered = text.lower()
    if not any(word in lowered for word in _ASSIGNED_WORDS):
        return
    for found in _ASSIGNED.finditer(text):
        value = found[1]
        if re.search(r"\d", value) and re.search(r"[A-Za-z]", value) and entropy(value) >= _MIN_ENTROPY:
            yield found.span(1)


def entropy(text: str) -> float:
    """Returns the bits per character of a text, by its own letters' frequencies."""
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())


_FINDERS: dict[str, Callable[..., Iterator[Span]]] = {  # in order: what an earlier one finds is not looked at again
    "secret": secrets,
    "email": emails,
    "iban": ibans,
    "card": cards,
    "ssn": social_security_numbers,
    "ip": addresses,
    "private_ip": partial(addresses, private=True),
    "phone": phones,
}
KINDS = tuple(_FINDERS)
_MASKS = {kind: f"<{kind.upper()}>" for kind in KINDS}
_HAS_DIGIT = re.compile(r"\d[\d .()/:-]{5,}|[0-9A-Fa-f]:|\d{8}")
_OF_DIGITS = frozenset(("iban", "card", "ssn", "ip", "private_ip", "phone"))


@dataclass(frozen=True)
class Rule:
    kinds: Sequence[str] = field(default=("email", "phone", "card", "iban", "ip", "ssn", "secret"))
    region: str = "US"

    def change(self, text: str) -> Change | None:
        found = self.spans(text)
        if not found:
            return None
        redacted, position = [], 0
        for start, end, kind in found:
            redacted += [text[position:start], _MASKS[kind]]
            position = end
        counts = Counter(kind for _, _, kind in found)
        characters = sum(end - start for start, end, _ in found)
        reason = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        finding = Finding(f"{reason}, {characters} characters", tuple(kind for _, _, kind in found))
        return Change("".join([*redacted, text[position:]]), finding)

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """Returns start, end and kind of every value, in order and without overlap."""
        spans: list[tuple[int, int, str]] = []
        has_digits = _HAS_DIGIT.search(text) is not None
        for kind, finder in _FINDERS.items():
            if kind not in self.kinds or (kind in _OF_DIGITS and not has_digits):
                continue
            options = {"region": self.region} if kind == "phone" else {}
            for start, end in finder(text, **options):
                if all(end <= other[0] or start >= other[1] for other in spans):
                    spans.append((start, end, kind))
        return sorted(spans)
