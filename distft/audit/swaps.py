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

PAIRS = Path(__file__).with_name("swaps.yaml")
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

_OBJECT_BEFORE = frozenset(  # words that follow an object (`him`) or a possessive alone (`hers`), never `his` + noun
    """
    to for with at by from in on of about into onto over under after before as than through without within against
    between among around behind beside besides beyond near off out up down away toward towards until till upon during
    despite like via since because across along past and or but nor so yet while though although unless whereas a an
    the this that these those my your his her hers mine yours ours theirs its our their some any every each another
    both all what who whom whose which where when why how if whether i you he she it we they me us them something
    anything nothing everything someone anyone everyone himself herself itself themselves myself yourself is was are
    were be been has had will would can could should may might must did does do isn wasn not never always often
    sometimes just even again too also anyway instead alone once twice there here now then today tomorrow yesterday
    tonight soon ago inside outside everywhere somewhere anywhere together apart aside ahead forward immediately
    forever whenever wherever nearby upstairs downstairs abroad though however
    """.split()
)
_AMBIGUOUS_ADVERBS = frozenset("better more less well hard fast enough either most online later earlier".split())
_GIVING = frozenset(
    """
    give gives gave given giving offer offers offered offering hand handed handing send sends sent sending pay pays
    paid show shows showed showing buy buys bought buying bring brings brought lend lent teach teaches taught teaching
    tell deny denies denied denying refuse refused allow allowed tells told owe owed grant granted award awarded
    promise promised feed fed wish wished cost costs serve served
    """.split()
)
_GIVEN = frozenset(
    """
    flowers money permission advice credit access directions help water food medicine chocolates hope strength courage
    pause lessons instructions tea coffee presents gifts candy books letters french spanish english math physics chess
    luck entry food attention power support medication painkillers antibiotics two three four five six ten twenty
    fifty hundred many several more
    """.split()
)
_CAUSING = frozenset("make makes made making let lets letting help helps helped helping have bid".split())
_PERCEIVING = frozenset(
    """
    see sees saw seen seeing watch watches watched watching hear hears heard hearing feel felt notice noticed observe
    observed catch caught find found keep keeps kept leave left spot spotted
    """.split()
)
_STATE = frozenset("make makes made making keep keeps kept find found leave left drive drove get got call called "
                   "consider considered declare declared think thought believe believed".split())  # fmt: skip
_INTENSIFIERS = frozenset("very so too really quite rather extremely more less".split())
_NAMING = frozenset("elect elected name named appoint appointed crown crowned make made declare declared".split())
_ROLES = frozenset("president captain chair director leader head queen king manager secretary minister mayor treasurer "
                   "champion winner chief heir partner editor".split())  # fmt: skip
_DOUBLE = frozenset("friend friends colleague colleagues cousin cousins acquaintance neighbour neighbor relative uncle "
                    "aunt classmate student pupil fan fans".split())  # fmt: skip  # `a friend of his said`
_BASE_VERBS = frozenset(
    """
    go leave sleep cry laugh smile feel think know understand see speak sing win finish find move get do eat drink sit
    stand come enter stay stop start learn grow write read choose decide believe realise realize say tell ask wait
    want become be have take make give keep forget remember look listen follow lose pay carry fall rise climb cook
    drive swim fly hide open close prepare solve succeed recover relax apologize apologise lie pass arrive join return
    """.split()
)
_NOUN_VERBS = frozenset("work study dance walk run play talk try practice train rest travel".split())
_ADJECTIVES = frozenset(
    """
    happy sad angry tired nervous proud famous sick uncomfortable mad crazy rich strong awake safe warm busy asleep
    speechless curious calm ill upset anxious jealous sleepy hungry thirsty lonely afraid responsible guilty dead
    alive unconscious ready comfortable brilliant clever smart beautiful kind guilty boring funny attractive brave
    angrier happier stronger wiser blush
    """.split()
)
_NOT_GERUND = frozenset(
    """
    wedding painting paintings building training writing writings drawing drawings feeling feelings meaning meeting
    earring earrings ring rings evening morning clothing reading beginning living upbringing king thing things string
    spring ceiling savings belongings blessing findings hearing surroundings understanding
    """.split()
)
_TIMES = frozenset("day night evening morning week weekend month year summer winter spring autumn time".split())
_LISTENING = frozenset("listen listens listened listening".split())
_BACK_VERBS = frozenset(
    """
    call calls called bring brings brought take takes took send sent pay paid get got put hold held write wrote text
    texted love loved let invite invited welcome welcomed win won want wanted drove drive pull pulled push pushed
    kissed rang ring hug hugged
    """.split()
)
_HOME_VERBS = frozenset("drive drives drove take takes took walk walks walked bring brings brought send sent follow "
                        "followed carry carried see saw invite invited".split())  # fmt: skip


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
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    persons = frozenset(content.pop("person_words"))
    return {axis: _pairs(axis, section, persons) for axis, section in content.items()}


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
        is_name = text[tokens[j].start].isupper() and tokens[j].word not in _OBJECT_BEFORE
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
    said = following.word.endswith("ed") or following.word in ("said", "told", "came", "went", "got", "made", "says")
    if said and i > 1 and tokens[i - 1].word == "of" and tokens[i - 2].word in _DOUBLE:
        return False
    return following.word not in _OBJECT_BEFORE


def _is_object(text: str, tokens: Sequence[_Token], i: int, before: _Token | None, following: _Token | None) -> bool:
    """Returns whether `her` is an object, as in `saw her`, rather than before what she has."""
    if following is None:
        return re.match(r"\s+\d", text[tokens[i].end :]) is None  # her 3 children
    word, verb = following.word, before.word if before else ""
    if word in ("and", "or") and i + 2 < len(tokens) and tokens[i + 2].word in ("his", "my", "your", "their", "our"):
        return before is not None
    if word in _OBJECT_BEFORE:
        return True
    after = _next(text, tokens, i + 1)
    if word in ("last", "next", "one") and after and after.word in _TIMES:
        return True
    if verb == "to" and i > 1 and tokens[i - 2].word in _LISTENING and word in _BASE_VERBS | _NOUN_VERBS:
        return True
    ends = after is None or after.word in _OBJECT_BEFORE  # nothing that `following` could describe
    if verb in _GIVING and word in _GIVEN:
        return after is None or after.word != "to"
    if (verb in _STATE and word in _INTENSIFIERS) or (verb in _NAMING and word in _ROLES and ends):
        return True
    if word in _AMBIGUOUS_ADVERBS or (
        word.endswith("ly") and word not in ("family", "reply", "belly", "supply", "bully")
    ):
        return ends
    if word == "back":
        return verb in _BACK_VERBS
    if word == "home":
        return verb in _HOME_VERBS and ends
    if verb in _CAUSING and word in _BASE_VERBS | _NOUN_VERBS:
        return True
    if verb in _PERCEIVING and (word in _BASE_VERBS or (word.endswith("ing") and word not in _NOT_GERUND)):
        return True
    return verb in _STATE and word in _ADJECTIVES and ends
