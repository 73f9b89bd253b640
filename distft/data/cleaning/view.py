"""A row as cleaning rules see it: its texts by role, and normalized words and hashes, computed once for all rules.

Normalized: NFKC, case-folded, words alone. Scripts without spaces count each character as a word, so that word runs
work for them too. Word hashes are xxh3, not Python's `hash`, which differs between processes.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import xxhash

from distft.data.example import Example, RawJson, Segment
from distft.runtime.determinism import splitmix64

REASONING = ("reasoning_content", "reasoning", "thinking")
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Thai to Han
_WORD = re.compile(rf"[^\W_{_UNSPACED}]+|[{_UNSPACED}]")
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_BASE = 0x9E3779B97F4A7C15  # odd: multiplication by its powers is a bijection of 64 bits


@dataclass(frozen=True)
class Text:
    """One text of a row: role (system, user, assistant, prompt, completion or text) and whether it is trained."""

    role: str
    text: str
    trained: bool


@dataclass(frozen=True)
class View:
    """One row: where it comes from, its fields, and its texts in order."""

    source: str
    line: int
    texts: tuple[Text, ...]
    fields: RawJson | None = None
    label: object = None  # of an Example
    _words: dict[str, list[str]] = field(default_factory=dict, repr=False, compare=False)
    _hashes: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def prompt(self) -> str:
        """The texts before the first trained one, without a system text."""
        first = next((i for i, text in enumerate(self.texts) if text.trained), len(self.texts))
        return "\n".join(text.text for text in self.texts[:first] if text.role != "system")

    @cached_property
    def answer(self) -> str:
        """All trained texts."""
        return "\n".join(text.text for text in self.texts if text.trained)

    @cached_property
    def pair(self) -> str:
        """All texts."""
        return "\n".join(text.text for text in self.texts)

    @cached_property
    def answer_words(self) -> list[str]:
        """The answer's words as written, split at spaces."""
        return self.answer.split()

    def words(self, part: str) -> Sequence[str]:
        """Returns the normalized words of a part."""
        if part not in self._words:
            self._words[part] = normalized_words(getattr(self, part))
        return self._words[part]

    def hashes(self, part: str) -> np.ndarray:
        """Returns the hash of each normalized word of a part, uint64 [words]."""
        if part not in self._hashes:
            self._hashes[part] = word_hashes(self.words(part))
        return self._hashes[part]

    def identity(self, part: str) -> int:
        """Returns a 64-bit hash of a part's normalized words; of its characters where it has no words, 0 if empty."""
        hashes = self.hashes(part)
        if not len(hashes):
            if not getattr(self, part).strip():
                return 0
            return xxhash.xxh3_64_intdigest(getattr(self, part).strip().encode(errors="surrogatepass"))
        return xxhash.xxh3_64_intdigest(hashes.tobytes())


def view_of(source: str, line: int, example: Example, fields: RawJson | None = None) -> View:
    """Returns the view of a row; `fields` is the row as read."""
    return View(source, line, texts_of(example), fields, example.label)


def texts_of(example: Example) -> tuple[Text, ...]:
    """Returns the texts of a row: of its turns, each after its reasoning, and of a rejected answer."""
    found = []
    for part in example.segments:
        reasoning = (part.fields.get(key) for key in REASONING)
        found += [Text("reasoning", text, part.train) for text in reasoning if isinstance(text, str) and text]
        found.append(Text(part.role, part.text, part.train))
    others = (part for part in example.rejected if part not in example.segments)
    return (*found, *(Text("rejected", part.text, False) for part in others))


def with_texts(example: Example, change: Callable[[str], str]) -> Example:
    """Returns the example with every text changed, those in tool calls too; the same object where no text is."""
    segments, rejected = (
        tuple(_changed(part, change) for part in parts) for parts in (example.segments, example.rejected)
    )
    if segments == example.segments and rejected == example.rejected:
        return example
    return replace(example, segments=segments, rejected=rejected)


def _changed(part: Segment, change: Callable[[str], str]) -> Segment:
    written = part.written if part.written is None else change(part.written)
    return replace(part, text=change(part.text), written=written, fields=_changed_leaves(part.fields, change))


def _changed_leaves(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: _changed_leaves(inner, change) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_changed_leaves(inner, change) for inner in value)
    return value


def normalized_words(text: str) -> list[str]:
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def word_hashes(words: Sequence[str]) -> np.ndarray:
    """Returns a hash of each word, uint64 [words]."""
    return np.fromiter(map(_word_hash, words), dtype=np.uint64, count=len(words))


@lru_cache(maxsize=2**17)
def _word_hash(word: str) -> int:
    return xxhash.xxh3_64_intdigest(word.encode(errors="surrogatepass"))


def ngram_hashes(hashes: np.ndarray, ngram: int) -> np.ndarray:
    """Returns the hash of every run of `ngram` words, uint64 [words - ngram + 1]; of the whole of a shorter text.

    hashes: of the words, in order.
    """
    size = min(ngram, len(hashes))
    count = len(hashes) - size + 1 if size else 0
    mixed = np.full(count, ngram, dtype=np.uint64)
    for offset in range(size):
        mixed = mixed * np.uint64(_BASE) + hashes[offset : offset + count]
    return splitmix64(mixed)


def leaf_texts(value: Any) -> Iterator[str]:
    """Yields the strings in a JSON value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from leaf_texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from leaf_texts(inner)
