"""Statistics of the rows of a data stage: token lengths, labels and sources, counted per block and added up."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_LABELS = 200  # different short answers that are counted in a block
LABEL_WORDS, LABEL_CHARACTERS = 4, 40  # a longer answer is not a label
LONGEST = 20  # rows listed
EXACT_LENGTH = 4096  # tokens up to which lengths are counted exactly


@dataclass
class Statistics:
    """Counts of rows that can be trained on, before cleaning and truncation."""

    lengths: Counter[int] = field(default_factory=Counter)  # tokens -> rows
    labels: Counter[str] = field(default_factory=Counter)  # short answer -> rows
    sources: Counter[str] = field(default_factory=Counter)  # file -> rows
    licences: Counter[str] = field(default_factory=Counter)  # that rows name themselves -> rows
    longest: list[tuple[int, str]] = field(default_factory=list)  # tokens and FILE:LINE, the longest first

    def add(self, length: int, answer: str, file: str, line: int) -> None:
        """Counts a row. length: tokens before truncation."""
        self.lengths[rounded(length)] += 1
        self.sources[file] += 1
        label = answer.strip()
        is_label = len(label) <= LABEL_CHARACTERS and len(label.split()) <= LABEL_WORDS
        if is_label and (label in self.labels or len(self.labels) < MAX_LABELS):
            self.labels[label] += 1
        if len(self.longest) < LONGEST or length > self.longest[-1][0]:
            self.longest = sorted([*self.longest, (length, f"{file}:{line}")], key=lambda each: -each[0])[:LONGEST]

    def as_json(self) -> dict[str, object]:  # JSON: the fields
        return {
            "lengths": sorted(self.lengths.items()),
            "labels": sorted(self.labels.items(), key=lambda each: (-each[1], each[0])),
            "sources": list(self.sources.items()),
            "licences": sorted(self.licences.items(), key=lambda each: (-each[1], each[0])),
            "longest": self.longest,
        }

    @classmethod
    def total(cls, parts: Iterable[Mapping[str, Any]]) -> "Statistics":
        """Returns the sum of several blocks', as `as_json` gave them, in the order of the rows."""
        found = cls()
        for part in parts:
            for name in ("lengths", "labels", "sources", "licences"):
                counter = getattr(found, name)
                for key, count in part.get(name, ()):  # a block of an older version names no licences
                    counter[key] += count
            longest = [*found.longest, *((length, place) for length, place in part["longest"])]
            found.longest = sorted(longest, key=lambda each: -each[0])[:LONGEST]
        return found


def licences_of(rows: Iterable[Any]) -> Iterator[str]:
    """Yields the licence of each row that names one: in a field, or in datatrove's metadata."""
    for row in rows:
        metadata = row.get("metadata")
        for fields in (row, metadata if isinstance(metadata, dict) else {}):
            licence = fields.get("licence") or fields.get("license")
            if isinstance(licence, str):
                yield licence[:LABEL_CHARACTERS]
                break


def rounded(length: int) -> int:
    """Returns the length as it is counted: exact up to EXACT_LENGTH, above to within 2%, rounded up."""
    if length <= EXACT_LENGTH:
        return length
    step = 2 ** (length.bit_length() - 7)
    return -(-length // step) * step


def truncation(lengths: Mapping[int, int], max_length: int) -> dict[str, float]:
    """Returns rows and share of all tokens that a max_length would cut off."""
    rows, tokens = sum(lengths.values()), sum(length * count for length, count in lengths.items())
    cut = sum(count for length, count in lengths.items() if length > max_length)
    lost = sum((length - max_length) * count for length, count in lengths.items() if length > max_length)
    return {
        "max_length": max_length,
        "rows": cut,
        "row_share": cut / rows if rows else 0.0,
        "token_share": lost / tokens if tokens else 0.0,
    }


def percentile(lengths: Mapping[int, int], share: float) -> int:
    """Returns the smallest length that at least `share` of the rows do not exceed."""
    rows, seen = sum(lengths.values()), 0
    for length, count in sorted(lengths.items()):
        seen += count
        if seen >= share * rows:
            return length
    return 0
