"""Personal data and secrets: found, dropped or redacted; each kind has a pattern and a check.

Cards need Luhn's check digit and an issuer's prefix, IBANs their check digits and length, phone numbers those of their
country by phonenumbers, addresses a public range. Hard negatives decide the precision: versions, ISBNs, commit hashes,
example.com and private addresses are not personal data.
A redacted text has `<EMAIL>` in place of a value; none of them matches a pattern, so redaction is idempotent.

Most texts have no value, so speed is that of the search for a first hint: a literal or a digit, which `re` finds ten
times as fast as a pattern that begins with a lookbehind, a border or alternatives. The pattern is then tried there.
"""

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from string import hexdigits

from distft.data.cleaning.contract import Change, Finding

VERSION = 1
NEEDS = ("phonenumbers",)

_MAX_MAILBOX = 64  # characters before the @
_MAILBOX = re.compile(rf"(?<![\w.+-])[A-Za-z0-9][\w.+%-]{{0,{_MAX_MAILBOX - 1}}}\Z")
_DOMAIN = re.compile(r"@(?:[A-Za-z0-9](?:[\w-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}\b")
_RESERVED = re.compile(r"(?:^|\.)(?:example\.(?:com|org|net|edu)|example|test|invalid|localhost|local|domain\.com)$")
_RUN = re.compile(r"\d[\d .()/:\u2011\u2013-]{5,}")  # holds each card, SSN, IPv4 address and phone number whole
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
_ISSUER = re.compile(  # prefix and length: Visa, Mastercard, American Express, Discover, Diners, JCB, UnionPay
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720))\d*(?<=\d{16})|3[47]\d{13}|"
    r"6(?:011|4[4-9]|5)\d*(?<=\d{16})|3(?:0[0-5]|[689])\d*(?<=\d{14})|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
)
_IBAN = re.compile(r"\b[A-Z]{2}\d\d(?: ?[A-Z0-9]){11,30}\b")
_IBAN_TAIL = re.compile(r"\d\d(?: ?[A-Z0-9]){11}")
_IBAN_VALUE = re.compile(r"[A-Za-z\d]+")
_LENGTHS = (  # of an IBAN by country
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 "
    "FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 "
    "LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 "
    "SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20"
)
_IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _LENGTHS.split()}
_IP4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_IP6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_IP6_COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")  # its first two
_VERSION_BEFORE = re.compile(
    r"(?:\bv|version|release|build|firmware|driver|chrome/|edg/|==|>=|<=|~=|@|section|chapter|clause|figure|table|\u00a7)"
    r"[ :=]*\Z",
    re.I,
)
_SSN = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-])")
_PHONE_HINT = re.compile(r"(?<![\w.])(?:\+|\()?\d[\d ().\u2011\u2013/-]{5,22}\d")
_PHONE_DIGITS = 7  # of the shortest numbers, with the code of their country
_ABROAD_DIGITS = 6  # of the shortest valid number with the code of its country
_PLUS = re.compile("[+\uff0b]")
_PHONE_FORM = re.compile(r"[+() .\u2011\u2013/-]")
_SECRET = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,255}\b|\bgithub_pat_\w{60,255}\b|\bglpat-[\w-]{20,64}\b|"
    r"\bxox[abeprs]-[\w-]{10,250}\b|\bsk-(?:ant-|proj-|or-)?[\w-]{20,250}|\b(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,250}\b|"
    r"\bhf_[A-Za-z0-9]{30,64}\b|\bnpm_[A-Za-z0-9]{36}\b|\bpypi-[\w-]{50,250}|\bAIza[\w-]{35}\b|\bya29\.[\w-]{20,250}|"
    r"\bSG\.[\w-]{16,64}\.[\w-]{16,64}\b|\beyJ[\w-]{10,2000}\.eyJ[\w-]{10,4000}\.[\w-]{10,2000}\b|"
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----[\s\S]{0,8000}?(?:-----END (?:[A-Z]+ )*PRIVATE KEY-----|\Z)"
)
_MARKS = {  # each match of _SECRET begins with one; by the character that those of a line have in common
    "_": ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "sk_", "rk_", "pk_", "hf_", "npm_"),
    "-": ("glpat-", "xox", "sk-", "pypi-", "-----BEGIN"),
    "": ("AKIA", "ASIA", "AIza", "ya29.", "SG.", "eyJ"),
}
_ASSIGNED = re.compile(
    r"(?:api[_-]?key|secret|token|passw(?:or)?d|auth)\w*[\"']?\s*(?:=|:)\s*[\"']?([A-Za-z0-9+/_.~-]{16,256}=*)", re.I
)
_ASSIGNED_VALUE = re.compile(r"[=:]\s*[\"']?[A-Za-z0-9+/_.~-]{16}", re.I)
_ASSIGNED_WORDS = ("api", "secret", "token", "passw", "auth")
_MIN_ENTROPY = 3.5  # bits per character: random text of base 64 has above 4, words have about 3

Span = tuple[int, int]


def emails(text: str, runs: Sequence[Span] = ()) -> Iterator[Span]:
    end = 0
    for at in _positions(text, "@"):
        mailbox = _MAILBOX.search(text, max(at - _MAX_MAILBOX, end), at)
        domain = _DOMAIN.match(text, at) if mailbox else None
        if mailbox and domain:
            end = domain.end()
            if not _RESERVED.search(domain[0][1:].lower()):
                yield mailbox.start(), end


def _positions(text: str, part: str) -> Iterator[int]:
    """Yields where a part of a text begins, each time."""
    position = text.find(part)
    while position >= 0:
        yield position
        position = text.find(part, position + 1)


def _within(runs: Sequence[Span], pattern: re.Pattern[str], text: str, shortest: int) -> Iterator[re.Match[str]]:
    """Yields the matches of a pattern in runs of at least so many characters, and what it asserts around them."""
    for start, end in runs:
        if end - start >= shortest:
            yield from pattern.finditer(text, max(0, start - 1), end + 2)


def cards(text: str, runs: Sequence[Span]) -> Iterator[Span]:
    for found in _within(runs, _CARD, text, 13):
        digits = re.sub(r"\D", "", found[0])
        if _ISSUER.fullmatch(digits) and len(set(digits)) > 1 and luhn(digits):
            yield found.span()


def luhn(digits: str) -> bool:
    """Returns whether the last digit is Luhn's check digit of the others."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[::-2])) + sum(doubled)) % 10 == 0


def ibans(text: str, runs: Sequence[Span] = ()) -> Iterator[Span]:
    if _IBAN_TAIL.search(text) is None:
        return
    for found in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(found[0][:2], 0)
        end = _after(text, found.start(), length)
        value = text[found.start() : end].replace(" ", "")
        if len(value) != length or not _IBAN_VALUE.fullmatch(value) or text[end : end + 1].isalnum():
            continue
        if _mod_97(value) == 1:
            yield found.start(), end


def _after(text: str, position: int, count: int) -> int:
    """Returns the position after `count` characters that are not spaces."""
    while count and position < len(text):
        count -= text[position] != " "
        position += 1
    return position


def _mod_97(iban: str) -> int:
    return int("".join(str(int(letter, 36)) for letter in iban[4:] + iban[:4])) % 97


def addresses(text: str, runs: Sequence[Span], private: bool = False) -> Iterator[Span]:
    """Yields IP addresses in a public range; with `private` those in a private one."""
    dotted = [run for run in runs if text.count(".", *run) > 2]
    for start, end in (*_ip4(text, dotted), *_ip6(text)):
        try:
            address = ipaddress.ip_address(text[start:end])
        except ValueError:
            continue
        if address.is_private if private else address.is_global and not address.is_multicast:
            yield start, end


def _ip4(text: str, runs: Sequence[Span]) -> Iterator[Span]:
    for found in _within(runs, _IP4, text, 7):
        if not _VERSION_BEFORE.search(text, max(0, found.start() - 16), found.start()):
            yield found.span()


def _ip6(text: str) -> Iterator[Span]:
    for colons in _IP6_COLONS.finditer(text):
        start = colons.start()
        while start and text[start - 1] in hexdigits:
            start -= 1
        found = _IP6.match(text, start)
        if found and _is_written_as_address(found[0]):
            yield found.span()


def _is_written_as_address(text: str) -> bool:
    """Returns whether text with colons is an address rather than code: `::1` and `2001:4860::8888`, not `a::b`."""
    return text == "::1" or (len(text.replace(":", "")) >= 5 and any(letter.isdigit() for letter in text))


def social_security_numbers(text: str, runs: Sequence[Span]) -> Iterator[Span]:
    return (found.span() for found in _within(runs, _SSN, text, 11))


def phones(text: str, runs: Sequence[Span], region: str = "US") -> Iterator[Span]:
    """Yields numbers that are valid in their country and written as phone numbers are, not as one run of digits."""
    hints = [found for found in _within(runs, _PHONE_HINT, text, 7) if _PHONE_FORM.search(found[0])]
    hints = [found for found in hints if sum(map(str.isdigit, found[0])) >= _PHONE_DIGITS]
    if not hints:
        return
    from phonenumbers import Leniency, PhoneNumberMatcher

    end = 0
    for found in hints:
        start = max(found.start() - 1, end)
        window = text[start : found.end() + 16]  # an extension follows the number
        if not _PLUS.search(window) and sum(map(str.isdigit, window)) < _national_digits(region):
            continue
        for match in PhoneNumberMatcher(window, region, leniency=Leniency.VALID):
            marks = _PHONE_FORM.findall(match.raw_string.lstrip("("))
            if not marks or marks == ["."] or start + match.start < end:  # one run of digits, a decimal number
                continue
            end = start + match.end
            yield start + match.start, end


@cache
def _national_digits(region: str) -> int:
    """Returns the digits of the shortest valid number that is written without a plus in a region."""
    from phonenumbers import PhoneMetadata, country_code_for_region, region_code_for_country_code

    shared = region_code_for_country_code(country_code_for_region(region))  # US for all of the code 1
    own, whole = (PhoneMetadata.metadata_for_region(each) for each in (region, shared))
    if own is None or whole is None or own.national_prefix_transform_rule or whole.national_prefix_transform_rule:
        return 0  # such a rule adds digits
    prefix = own.international_prefix or ""
    abroad = _ABROAD_DIGITS + (len(prefix) if prefix.isdigit() else 1)
    lengths = [length for each in (own, whole) if each.general_desc for length in each.general_desc.possible_length]
    return min(abroad, *lengths)


def secrets(text: str, runs: Sequence[Span] = ()) -> Iterator[Span]:
    marks = [mark for common, marks in _MARKS.items() if common in text for mark in marks]
    yield from (found.span() for found in _beginning(marks, text, _SECRET, text))
    if _ASSIGNED_VALUE.search(text) is None:
        return
    lowered = text.lower()
    if text.isascii():
        assigned = _beginning(_ASSIGNED_WORDS, lowered, _ASSIGNED, text)
    else:  # where lower() may move positions
        assigned = _ASSIGNED.finditer(text) if any(word in lowered for word in _ASSIGNED_WORDS) else ()
    for found in assigned:
        value = found[1]
        if re.search(r"\d", value) and re.search(r"[A-Za-z]", value) and entropy(value) >= _MIN_ENTROPY:
            yield found.span(1)


def _beginning(parts: Sequence[str], searched: str, pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Yields the matches of a pattern in a text, all of which begin where `searched` has one of the parts."""
    end = 0
    for start in sorted(position for part in parts if part in searched for position in _positions(searched, part)):
        found = pattern.match(text, start) if start >= end else None
        if found:
            end = found.end()
            yield found


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
_HAS_NUMBER = re.compile(r"\d[\d .()/:-]{5,}|[0-9A-Fa-f]:|\d{8}")
_OF_DIGITS = frozenset(("iban", "card", "ssn", "ip", "private_ip", "phone"))


@dataclass(frozen=True)
class Rule:
    kinds: Sequence[str] = field(default=("email", "phone", "card", "iban", "ip", "ssn", "secret"))
    region: str = "US"

    @cached_property
    def _finders(self) -> list[tuple[str, Callable[[str, Sequence[Span]], Iterator[Span]]]]:
        """The finders of the kinds, in order."""
        finders = _FINDERS | {"phone": partial(phones, region=self.region)}
        return [(kind, finder) for kind, finder in finders.items() if kind in self.kinds]

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
        runs = [found.span() for found in _RUN.finditer(text)]
        for kind, finder in self._finders:
            found = [*finder(text, runs)]
            if found and kind in _OF_DIGITS and _HAS_NUMBER.search(text) is None:
                continue
            for start, end in found:
                if all(end <= other[0] or start >= other[1] for other in spans):
                    spans.append((start, end, kind))
        return sorted(spans)
