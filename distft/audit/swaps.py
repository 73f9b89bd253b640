"""Counterfactual swaps: the same English text about another group, such as he for she.

Pronouns are ambiguous: `her` is `his` before a noun and `him` as an object; `his` is `her` before a noun and `hers`
alone. The words around them decide, by lists of function words and of verbs; there is no parser, so rare
constructions are swapped wrongly. tests/audit/swap_cases.jsonl holds what is right.

Code, URLs, e-mail addresses, paths and identifiers are never changed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

PAIRS, WORDS = (Path(__file__).with_name(name) for name in ("swaps.yaml", "english.txt"))
GENDER = "gender"

_WORD = re.compile(r"[^\W\d_]+")
_BLOCKS = re.compile(
    r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|\$\$.*?\$\$|<(code|pre|script|style)\b.*?</\1>|`[^`\n]+`"
    r"|\b(?:https?|ftp|file|s3|ssh)://\S+|\bwww\.\S+|\bmailto:\S+"
    r"|\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+|@\w+|#\w+"
    r"|(?<![\w/])(?:~|\.{1,2})?/[\w.-]+(?:/[\w.-]*)+|\b[A-Za-z]:\\\S+|\b[\w-]+(?:/[\w.-]+){2,}"  # paths
    r"|\b(?:[\w-]+\.)+(?:com|org|net|edu|gov|io|dev|html?|php|py|js|json|txt|md|csv|pdf|png|jpe?g)\b(?:/\S*)?"
    r"|</?[A-Za-z][^>\n]*>|<\|[^|\n]+\|>|\{\{.*?\}\}|\{\w+\}"  # tags, special tokens, placeholders
    r"|\\[A-Za-z]+(?:\{[^}\n]*\})?",  # LaTeX
    re.DOTALL,
)
_CODE_LINES = re.compile(
    r"^(?: {4,}|\t)\S.*$"
    r"|^ *(?:def|func|function) \w+\(.*$|^ *class \w+[(:{].*$|^ *import [\w.]+(?: as \w+)?$|^ *from [\w.]+ import .*$"
    r"|^ *(?:const|let|var|auto|int|string|str) \w+ ?=.*$|^ *#include\b.*$|^ *(?:>>>|\$) .*$"
    r"|^ *(?:SELECT .* FROM|INSERT INTO|UPDATE \w+ SET)\b.*$"
    r"|^.*[=({\[].*;$|^.*\).*\{$|^ *[}\])]+[;,]?$|^ *(?:if|for|while|elif|with)\b.*[\w\])]:$"
    r"|^ *[\w.\[\]]+ ?[-+*/|&]?==? ?\S.*$|^ *[\w.]+\([^ ]*\)$",
    re.MULTILINE,
)


@lru_cache(maxsize=1)
def _words() -> dict[str, frozenset[str]]:
    """Returns the word lists of english.txt by name."""
    lists: dict[str, set[str]] = {}
    words: set[str] = set()
    for line in WORDS.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("["):
            words = lists.setdefault(text.strip("[]"), set())
        else:
            words.update(text.split())
    return {name: frozenset(found) for name, found in lists.items()}


def _is(word: str, *lists: str) -> bool:
    """Returns whether a word is in one of the lists."""
    return any(word in _words()[name] for name in lists)


@dataclass(frozen=True)
class Pairs:
    """The swaps of one axis. words: lower case, both ways. names: as written. persons: before a person word only."""

    axis: str
    words: Mapping[str, str]
    names: Mapping[str, str]
    persons: Mapping[str, str]
    untouched: re.Pattern[str] | None
    titles: frozenset[str]
    person_words: frozenset[str]

    def swap(self, text: str) -> str:
        """Returns the text about the other group; the same text where it names none."""
        return _swap(text, self)


@lru_cache(maxsize=8)
def load_pairs(path: Path = PAIRS) -> dict[str, Pairs]:
    """Returns the swaps of every axis in a file."""
    content: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    persons = frozenset(content["person_words"])
    return {axis: _pairs(axis, section, persons) for axis, section in content.items() if axis != "person_words"}


def _pairs(axis: str, section: Mapping[str, Any], person_words: frozenset[str]) -> Pairs:
    words = {**dict(section.get("one_way", ())), **_both_ways(section.get("nouns", ()))}
    phrases = section.get("untouched", ())
    pattern = rf"\b(?:{'|'.join(map(re.escape, phrases))})\b" if phrases else None
    return Pairs(
        axis,
        words,
        _both_ways(section.get("names", ())),
        _both_ways(section.get("persons", ())),
        re.compile(pattern, re.IGNORECASE) if pattern else None,
        frozenset(section.get("titles", ())),
        person_words,
    )


def _both_ways(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    return {**dict(pairs), **{other: one for one, other in pairs}}


@dataclass(frozen=True)
class _Token:
    """A word of a text and its place."""

    word: str  # lower case
    start: int
    end: int


def _swap(text: str, pairs: Pairs) -> str:
    spans = _protected(text, pairs)
    tokens = [_Token(match[0].lower(), *match.span()) for match in _WORD.finditer(text)]
    made: list[str] = []
    position = span = 0
    for i, token in enumerate(tokens):
        while span < len(spans) and spans[span][1] <= token.start:
            span += 1
        if (span < len(spans) and spans[span][0] < token.end) or not _is_free(text, token):
            continue
        if (other := _other(text, tokens, i, pairs)) is None:
            continue
        made += [_with_article(text[position : token.start], text[token.start : token.end], other), other]
        position = token.end
    return "".join([*made, text[position:]])


def _protected(text: str, pairs: Pairs) -> list[tuple[int, int]]:
    """Returns start and end of what is never changed, sorted and without overlap."""
    patterns = [_BLOCKS, _CODE_LINES, *([pairs.untouched] if pairs.untouched else [])]
    joined: list[tuple[int, int]] = []
    for start, end in sorted(match.span() for pattern in patterns for match in pattern.finditer(text)):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _is_free(text: str, token: _Token) -> bool:
    """Returns whether a word is a word of prose, rather than a part of an identifier or a compound."""
    before, after = text[max(0, token.start - 2) : token.start], text[token.end : token.end + 2]
    if before and (before[-1] in "_@#$\\%&" or before[-1].isdigit()):
        return False
    if before[-1:] == "." and before[:1].isalnum():
        return False
    if after and (after[0] in "_@=\\" or after[0].isdigit() or after[0] == "("):
        return False
    if after[:1] in (".", "-", ":") and after[1:].isalnum():
        return after[0] == "-" and _is_in_law(text, token.end)
    return True


def _is_in_law(text: str, end: int) -> bool:
    return re.match(r"-in-laws?\b|-to-be\b", text[end : end + 10]) is not None


def _other(text: str, tokens: Sequence[_Token], i: int, pairs: Pairs) -> str | None:
    """Returns what a word becomes; None where it stays."""
    token = tokens[i]
    written = text[token.start : token.end]
    if written in pairs.names and not _is_surname(text, tokens, i, pairs):
        return pairs.names[written]
    if written.isupper() and len(written) > 1 and (name := pairs.names.get(written.title())):
        return name.upper()
    if pairs.axis == GENDER and token.word in ("her", "hers", "him", "his"):
        return _cased(_pronoun(text, tokens, i), written, is_start=True)
    other = pairs.words.get(token.word)
    if other is None and token.word in pairs.persons:
        following = _next(text, tokens, i)
        other = pairs.persons[token.word] if following and following.word in pairs.person_words else None
    if other is None or (token.word in pairs.titles and _is_title(text, tokens, i)):
        return None
    return _cased(other, written)


def _cased(word: str, written: str, is_start: bool = False) -> str:
    if written.isupper() and len(written) > 1:
        return word.upper()
    return word[:1].upper() + word[1:] if written[:1].isupper() else word


def _is_surname(text: str, tokens: Sequence[_Token], i: int, pairs: Pairs) -> bool:
    """Returns whether a name follows another name or a title of nobility: `Henry James`, `Prince William`."""
    if not i or text[tokens[i - 1].end : tokens[i].start] != " ":
        return False
    before = text[tokens[i - 1].start : tokens[i - 1].end]
    return before in pairs.names or (before[:1].isupper() and tokens[i - 1].word in pairs.titles)


def _is_title(text: str, tokens: Sequence[_Token], i: int) -> bool:
    """Returns whether a word such as King is a part of a name: `King Charles`, `Stephen King`."""
    if not text[tokens[i].start].isupper():
        return False
    near = [j for j in (i - 1, i + 1) if 0 <= j < len(tokens)]
    for j in near:
        low, high = sorted((tokens[i], tokens[j]), key=lambda token: token.start)
        is_name = text[tokens[j].start].isupper() and not _is(tokens[j].word, "object_before")
        if is_name and text[low.end : high.start] == " ":
            return True
    return False


def _with_article(before: str, written: str, other: str) -> str:
    """Returns the text before a word with `a` or `an` as the new word wants it, where they differ in that."""
    if _wants_an(written) == _wants_an(other):
        return before
    found = re.search(r"\b([Aa])(n?) $", before)
    if not found or bool(found[2]) != _wants_an(written):
        return before
    return f"{before[: found.start()]}{found[1]}{'n' if _wants_an(other) else ''} "


def _wants_an(word: str) -> bool:
    return (word[:1].lower() in "aeiou" and not word.lower().startswith(("eu", "uni"))) or word.lower().startswith(
        "heir"
    )


def _next(text: str, tokens: Sequence[_Token], i: int, start: int | None = None) -> _Token | None:
    """Returns the word that follows another in the same phrase; None at punctuation and at the end."""
    if i + 1 >= len(tokens):
        return None
    between = text[tokens[i].end if start is None else start : tokens[i + 1].start]
    if "\n\n" in between or not re.fullmatch(r"\s+[*_]*[\"'\u201c\u2018(]?[*_]*|[*_]+\s+[*_]*|/", between):
        return None
    return None if between.rstrip().endswith("(") else tokens[i + 1]


def _pronoun(text: str, tokens: Sequence[_Token], i: int) -> str:
    """Returns the other form of her, hers, him or his."""
    word = tokens[i].word
    if word == "him":
        return "her"
    if word == "hers":
        return "his"
    before = tokens[i - 1] if i and text[tokens[i - 1].end : tokens[i].start].strip("*_ \n") in ("", "/") else None
    following = _next(text, tokens, i)
    slash = text[tokens[i].end : tokens[i].end + 1] == "/"
    if word == "his":
        return "her" if _owns(text, tokens, i, following, slash) else "hers"
    if before and text[before.end : tokens[i].start] == "/":
        return {"his": "his", "him": "him"}.get(before.word, "his")
    if slash and following:
        return "him" if following.word == "him" else "his"
    if (
        following
        and text[following.end : following.end + 1] == "-"
        and text[following.end + 1 : following.end + 2].isalpha()
    ):
        return "his"  # her in-house counsel
    return "him" if _is_object(text, tokens, i, before, following) else "his"


def _owns(text: str, tokens: Sequence[_Token], i: int, following: _Token | None, slash: bool) -> bool:
    """Returns whether `his` stands before what he has, rather than alone."""
    if following is None:
        return re.match(r"\s+\d", text[tokens[i].end :]) is not None  # his 3 children
    if slash:
        return following.word != "hers"
    if following.word in ("and", "or"):
        after = tokens[i + 2].word if i + 2 < len(tokens) else ""
        return after in ("her", "my", "your", "their", "our")
    if text[following.end : following.end + 1] == "-" and text[following.end + 1 : following.end + 2].isalpha():
        return True
    said = following.word.endswith("ed") or _is(following.word, "past")
    if said and i > 1 and tokens[i - 1].word == "of" and _is(tokens[i - 2].word, "double"):
        return False
    return not _is(following.word, "object_before")


def _is_object(text: str, tokens: Sequence[_Token], i: int, before: _Token | None, following: _Token | None) -> bool:
    """Returns whether `her` is an object, as in `saw her`, rather than before what she has."""
    if following is None:
        return re.match(r"\s+\d", text[tokens[i].end :]) is None  # her 3 children
    word, verb = following.word, before.word if before else ""
    if word in ("and", "or") and i + 2 < len(tokens) and tokens[i + 2].word in ("his", "my", "your", "their", "our"):
        return before is not None
    if _is(word, "object_before"):
        return True
    after = _next(text, tokens, i + 1)
    if word in ("last", "next", "one") and after and _is(after.word, "times"):
        return True
    if verb == "to" and i > 1 and _is(tokens[i - 2].word, "listening") and _is(word, "base_verbs", "noun_verbs"):
        return True
    ends = after is None or _is(after.word, "object_before")  # nothing that `following` could describe
    if _is(verb, "giving") and _is(word, "given"):
        return after is None or after.word != "to"
    if (_is(verb, "state") and _is(word, "intensifiers")) or (_is(verb, "naming") and _is(word, "roles") and ends):
        return True
    if _is(word, "ambiguous_adverbs") or (
        word.endswith("ly") and word not in ("family", "reply", "belly", "supply", "bully")
    ):
        return ends
    if word == "back":
        return _is(verb, "back_verbs")
    if word == "home":
        return _is(verb, "home_verbs") and ends
    if _is(verb, "causing") and _is(word, "base_verbs", "noun_verbs"):
        return True
    if _is(verb, "perceiving") and (_is(word, "base_verbs") or (word.endswith("ing") and not _is(word, "not_gerund"))):
        return True
    return _is(verb, "state") and _is(word, "adjectives") and ends
