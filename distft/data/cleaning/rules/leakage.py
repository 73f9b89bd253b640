"""Training rows that contain held-out rows or benchmark items: whole, normalized, edited or inside longer turns.

An item is one text of a held-out row, as its runs of words (n-grams). A row has leaked an item when it contains a share
of the item's runs. Runs that many items have in common are the template of a benchmark, and count for none of them.
Every row is compared with every item: there is no top-k, so nothing similar is missed.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distft.data.cleaning.contract import Finding
from distft.data.cleaning.options import files_of
from distft.data.cleaning.view import View, leaf_texts, ngram_hashes, normalized_words, word_hashes
from distft.data.raw import RawRow
from distft.data.read import read_rows

VERSION = 2  # without system texts and texts that most held-out rows have
_SHORT_NGRAM = 5  # of items that have few runs of the full length
_MIN_WORDS = 5  # shorter items leak as whole rows alone: 'yes' is no leak
_LONG_ITEM = 3  # times the n-gram
_WHOLE_WORDS = 10  # below that many words one changed word makes another text, so an item leaks whole
_SHORT_THRESHOLD = 0.35  # at least, of items with few runs: common phrases are a large share of them
_CONTEXT = ("system", "developer", "tools", "functions")  # roles and keys of what many rows have in common
_TEMPLATE_ITEMS, _TEMPLATE_SHARE = 3, 0.01  # a run in more items, and in a larger share of them, is a template's


@dataclass(frozen=True)
class Item:
    """A text that must not be in the training rows."""

    place: str  # FILE:LINE
    text: str


def texts_of_rows(rows: Iterable[RawRow]) -> Iterator[Item]:
    """Yields the texts of rows but for system texts and schemas, which many have in common; of malformed rows none."""
    for row in rows:
        for text in leaf_texts(_without_context(row.value)):
            yield Item(f"{row.file}:{row.line}", text)


def _without_context(value: Any) -> Any:
    """Returns a row, or a part of it, without system messages and schemas of tools."""
    if isinstance(value, list):
        return [_without_context(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.get("role", value.get("from")) in _CONTEXT:
        return None
    return {key: _without_context(inner) for key, inner in value.items() if key not in _CONTEXT}


def texts_of_files(paths: Sequence[str]) -> Iterator[Item]:
    """Yields every text of the rows of files."""
    for file in files_of(paths):
        yield from texts_of_rows(read_rows(file))


@dataclass
class _Seen:
    """A text of held-out rows: where it is first, the hashes of its words, and how many rows have it."""

    place: str
    hashes: np.ndarray
    rows: int = 1


@dataclass(frozen=True)
class Index:
    """The runs of all items: sorted hashes, and the items of each."""

    runs: np.ndarray  # uint64 [runs], sorted
    offsets: np.ndarray  # int64 [runs + 1]: owners[offsets[i]:offsets[i + 1]] have runs[i]
    owners: np.ndarray  # int32
    totals: np.ndarray  # int32 [items]: runs of the item
    words: np.ndarray  # int32 [items]
    places: tuple[str, ...]  # [items]
    ngrams: tuple[int, ...]  # lengths in use


@dataclass(frozen=True)
class Rule:
    ngram: int = 8
    threshold: float = 0.2
    index: Index | None = None  # of the items; a rule without one finds nothing

    def find(self, view: View) -> Finding | None:
        if self.index is None or not len(self.index.runs):
            return None
        hashes = view.hashes("pair")
        runs = np.unique(np.concatenate([ngram_hashes(hashes, ngram) for ngram in self.index.ngrams]))
        at = np.searchsorted(self.index.runs, runs)
        at[at == len(self.index.runs)] = 0
        hit = at[self.index.runs[at] == runs]
        if not len(hit):
            return None
        owners = np.concatenate([self.index.owners[self.index.offsets[i] : self.index.offsets[i + 1]] for i in hit])
        items, counts = np.unique(owners, return_counts=True)
        shares = counts / self.index.totals[items]
        leaked = np.flatnonzero(shares >= self._thresholds(self.index.words[items]))
        if not len(leaked):
            return None
        best = int(leaked[np.argmax(shares[leaked])])
        item = int(items[best])
        return Finding(
            f"contains {counts[best]} of the {self.index.totals[item]} word runs of {self.index.places[item]}",
            ("whole" if shares[best] == 1 else "in part",),
        )

    def _thresholds(self, words: np.ndarray) -> np.ndarray:
        """Returns the share of an item's runs from which it has leaked, by its number of words. float64 [items]"""
        short = np.where(words < _WHOLE_WORDS, 1.0, max(self.threshold, _SHORT_THRESHOLD))
        return np.where(words < _LONG_ITEM * self.ngram, short, self.threshold)

    def indexed(self, items: Iterable[Item]) -> "Rule":
        """Returns the rule with the items that it looks for."""
        return Rule(self.ngram, self.threshold, make_index(items, self.ngram))


def _different(items: Iterable[Item]) -> list[_Seen]:
    """Returns the different texts of items, without those that so many rows have that they are a benchmark's template,
    such as an instruction."""
    found: dict[bytes, _Seen] = {}
    last: dict[bytes, str] = {}  # place of the last row that has a text
    num_rows, place = 0, ""
    for item in items:
        num_rows, place = num_rows + (item.place != place), item.place
        hashes = word_hashes(normalized_words(item.text))
        if len(hashes) < _MIN_WORDS:
            continue
        content = hashes.tobytes()
        if content not in found:
            found[content] = _Seen(item.place, hashes)
        elif last[content] != item.place:
            found[content].rows += 1
        last[content] = item.place
    most = max(_TEMPLATE_ITEMS, _TEMPLATE_SHARE * num_rows)
    return [seen for seen in found.values() if seen.rows <= most and (seen.rows == 1 or seen.rows < num_rows)]


def make_index(items: Iterable[Item], ngram: int) -> Index:
    places: list[str] = []
    each: list[np.ndarray] = []
    lengths: set[int] = set()
    words: list[int] = []
    for seen in _different(items):
        size = ngram if len(seen.hashes) >= _LONG_ITEM * ngram else _SHORT_NGRAM
        lengths.add(size)
        places.append(seen.place)
        words.append(len(seen.hashes))
        each.append(np.unique(ngram_hashes(seen.hashes, size)))
    if not each:
        nothing = np.zeros(0, dtype=np.uint64)
        none = np.zeros(0, dtype=np.int32)
        return Index(nothing, np.zeros(1, np.int64), none, none, none, (), ())
    flat = np.concatenate(each)
    owners = np.repeat(np.arange(len(each), dtype=np.int32), [len(runs) for runs in each])
    runs, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    common = counts > max(_TEMPLATE_ITEMS, _TEMPLATE_SHARE * len(each))
    rare = ~common[inverse]
    left = np.bincount(owners[rare], minlength=len(each))
    use = rare | (left < 3)[owners]  # an item that is all template is looked for as it is
    order = np.argsort(flat[use], kind="stable")
    runs, starts = np.unique(flat[use][order], return_index=True)
    return Index(
        runs,
        np.append(starts, len(order)).astype(np.int64),
        owners[use][order],
        np.bincount(owners[use], minlength=len(each)).astype(np.int32),
        np.array(words, dtype=np.int32),
        tuple(places),
        tuple(sorted(lengths)),
    )
