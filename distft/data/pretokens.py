"""Pre-tokens: the ids of byte-level BPE looked up by word, for the pre-tokenizers whose words a Python pattern finds.

The tokenizers library spends most of its time on the places of letters through each step, which the data stage does not
need. Here the pre-tokenizer's pattern cuts a text into words, and the library's own BPE gives the ids of a word when it
occurs first. That takes a fifth of the time.
Trap: versions of Unicode differ in what is a letter, so only texts of characters that have the same category in Unicode
3.2 and in Python's version are cut here; all others, such as emoji, are left to the library.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from typing import Any

import numpy as np

State = Mapping[str, Any]  # JSON: tokenizer.json, or a part of it
Ids = tuple[int, ...]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # of ByteLevel
SINGLE_DIGITS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"  # after Digits
ASCII = {"L": "A-Za-z", "Lu": "A-Z", "Ll": "a-z", "Lt": "", "Lm": "", "Lo": "", "M": "", "N": "0-9"}
ASCII_SPACES, SPACES = r"\t-\r ", "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
CATEGORY = re.compile(r"\\p\{(\w+)\}")
# what else a pattern may consist of: Python and the library's engine agree on these, except for possessive repeats
PLAIN = re.compile(r"(?:\\[rns]|\[\^?|\(\?(?:i:|:|!)|\{\d+(?:,\d*)?\}|[\w '/|?+*)\]])*")
POSSESSIVE = re.compile(r"[?*+}]\+")
PROBE = (  # encoded by the library too: a tokenizer that differs here is left to it
    "It's 3.14 o'CLOCK, I'LL say:\n\n\tdef f(x_1): return {'a': [1, 22, 4444]}  # naïve – “Ωmega” 中文字 Ёж\r\n  end ",
    "...!? --- 10,000,000 A1b2C3 CamelCaseWord x²½ ١٢٣\u00a0\u2003\u0301e\u0301  \n \n",
)
MAX_WORDS = 2**17  # remembered
MAX_LENGTH = 64  # letters of a remembered word


class Words(dict[str, Ids]):
    """The ids of each word, found when it is looked up first."""

    def __init__(self, ids_of: Callable[[str], Ids]) -> None:
        super().__init__()
        self.ids_of = ids_of

    def __missing__(self, word: str) -> Ids:
        found = self.ids_of(word)
        if len(self) < MAX_WORDS and len(word) <= MAX_LENGTH:
            self[word] = found
        return found


@dataclass(frozen=True)
class Pretokenizer:
    """Finds the ids of texts by their words."""

    backend: Any  # tokenizers.Tokenizer
    pattern: str  # of a word, with \\p{L} for letters
    added: dict[str, int]  # tokens that are cut out of a text before
    has_normalizer: bool  # to NFC

    def __call__(self, text: str) -> list[int] | None:
        """Returns the ids of a text; None where the library must be asked."""
        if text.isascii():
            find = self._find_ascii
        elif self._known.fullmatch(text) and (not self.has_normalizer or unicodedata.is_normalized("NFC", text)):
            find = self._find
        else:
            return None
        look_up, found = self._words.__getitem__, list[int]()
        if self._added is None:
            found.extend(chain.from_iterable(map(look_up, find(text))))
            return found
        parts = iter(self._added.split(text))
        for part in parts:
            if part:
                found.extend(chain.from_iterable(map(look_up, find(part))))
            if (token := next(parts, None)) is not None:
                found.append(self.added[token])
        return found

    @cached_property
    def _added(self) -> re.Pattern[str] | None:
        """The added tokens, of those that begin at one place the longest."""
        names = sorted(self.added, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, names))})") if names else None

    @cached_property
    def _words(self) -> Words:
        from tokenizers import pre_tokenizers

        level, model = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), self.backend.model

        def ids_of(word: str) -> Ids:
            [(letters, _)] = level.pre_tokenize_str(word)
            return tuple(token.id for token in model.tokenize(letters))

        return Words(ids_of)

    @cached_property
    def _find_ascii(self) -> Callable[[str], list[str]]:
        return re.compile(translated(self.pattern, ASCII.__getitem__, ASCII_SPACES)).findall

    @cached_property
    def _find(self) -> Callable[[str], list[str]]:
        return re.compile(translated(self.pattern, letters_of, SPACES)).findall

    @cached_property
    def _known(self) -> re.Pattern[str]:
        return re.compile(f"[{ranges(map(ord, known_letters()))}]*")

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name[0] != "_"}  # another process finds its own


def make_pretokenizer(tokenizer: Any, state: State) -> Pretokenizer | None:
    """Returns the pre-tokenizer of a byte-level tokenizer; None where its words are not sure to be found.

    state: tokenizer.json. The tokenizer is one of distft.data.offsets.byte_level.
    """
    backend, tokens = tokenizer.backend_tokenizer, state["added_tokens"]
    pattern = _pattern(state["pre_tokenizer"])
    if pattern is None or state["model"].get("dropout") or backend.encode_special_tokens:
        return None
    is_odd = any(token["single_word"] or not token["content"].isascii() for token in tokens)
    if is_odd or len({token["normalized"] for token in tokens}) > 1:  # two kinds are cut out one after the other
        return None
    added = {token["content"]: token["id"] for token in tokens}
    found = Pretokenizer(backend, pattern, added, state["normalizer"] is not None)
    asked = [*PROBE, *(f"a {name} b{name}\n" for name in added)]
    answers = backend.encode_batch_fast(asked, add_special_tokens=False)
    return found if all(found(text) in (None, each.ids) for text, each in zip(asked, answers, strict=True)) else None


def _pattern(state: State) -> str | None:
    """Returns the pattern of the words of a pre-tokenizer; None where it is not known."""
    steps = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    *before, level = steps
    if level["type"] != "ByteLevel" or level["add_prefix_space"] or len(before) > 1:
        return None
    if not before:
        return GPT2 if level["use_regex"] else None
    first = before[0]
    if first["type"] == "Digits":
        return SINGLE_DIGITS if first["individual_digits"] and level["use_regex"] else None
    if first["type"] != "Split" or level["use_regex"] or first["invert"] or first["behavior"] != "Isolated":
        return None
    pattern = first["pattern"].get("Regex")
    return pattern if pattern is not None and is_plain(pattern) else None


def is_plain(pattern: str) -> bool:
    """Returns whether Python reads a pattern as the library does, apart from the categories of letters."""
    rest, names = CATEGORY.sub("x", pattern.replace(r"\S", "x")), CATEGORY.findall(pattern)
    if POSSESSIVE.search(rest) or not PLAIN.fullmatch(rest) or set(names) - set(ASCII):
        return False
    try:
        compiled = re.compile(translated(pattern, ASCII.__getitem__, ASCII_SPACES))
    except re.error:
        return False
    return compiled.groups == 0 and compiled.match("") is None


def translated(pattern: str, letters: Callable[[str], str], spaces: str) -> str:
    """Returns a pattern with its categories as sets. letters: of a category, as in a set; spaces: those of \\s."""
    found, inside = "", False
    for piece in re.findall(r"\\p\{\w+\}|\\.|.", pattern, re.DOTALL):
        name = CATEGORY.fullmatch(piece)
        if name or piece in (r"\s", r"\S"):
            body = letters(name[1]) if name else spaces
            found += body if inside else f"[^{body}]" if piece == r"\S" else f"[{body}]"
            continue
        inside = piece == "[" or (inside and piece != "]")
        found += piece
    return found


@cache
def known_letters() -> list[str]:
    """Returns the characters of two bytes whose category is the same in Unicode 3.2, and that no case maps to ASCII."""
    old, new = unicodedata.ucd_3_2_0.category, unicodedata.category
    found = [chr(number) for number in range(0xD800)] + [chr(number) for number in range(0xE000, 0x10000)]
    return [each for each in found if old(each) == new(each) != "Cn" and (each.isascii() or not _maps_to_ascii(each))]


def _maps_to_ascii(letter: str) -> bool:
    if "\u2200" <= letter < "\uf900":  # most letters
        return False
    return any(other.isascii() for other in letter.casefold() + letter.lower() + letter.upper())


@cache
def letters_of(category: str) -> str:
    """Returns the known characters of a category or group of categories, as in a set."""
    return ranges(ord(each) for each in known_letters() if unicodedata.category(each).startswith(category))


def ranges(numbers: Iterable[int]) -> str:
    """Returns ascending code points as the ranges of a set."""
    found = np.fromiter(numbers, np.int64)
    gaps = np.flatnonzero(np.diff(found) > 1)
    firsts, lasts = found[[0, *gaps + 1]], found[[*gaps, -1]]
    return "".join(f"\\u{first:04x}-\\u{last:04x}" for first, last in zip(firsts, lasts, strict=True))
