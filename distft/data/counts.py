"""Counters of one data preparation: rows read, written, truncated and left out, by reason; and the rows left out."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

import numpy as np
import pyarrow as pa

from distft.data.example import BadField
from distft.data.raw import RawRow
from distft.data.shards import Row, batch_of

COUNTED = (
    *("read", "bad", "untrained", "truncated", "too_long", "split", "shortened", "tokens", "characters"),
    *("overlap", "dropped"),
)
MAX_SHOWN = 5  # bad rows that report.json lists
# reasons in dropped.jsonl, next to the names of cleaning rules
MALFORMED, UNTRAINED, OVERLAP, TOO_LONG = "malformed", "untrained", "overlap", "too_long"


@dataclass
class Split:
    """Counters of the rows written to one split."""

    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0

    def add(self, row: Row) -> None:
        self.add_rows(batch_of([(row, "")]))

    def add_rows(self, rows: pa.RecordBatch) -> None:
        """Counts rows of the shards' columns."""
        lengths = rows.column("length").to_numpy()
        self.rows += len(lengths)
        self.tokens += int(lengths.sum(dtype=np.int64))
        self.trained_tokens += int(rows.column("num_targets").to_numpy().sum(dtype=np.int64))
        self.longest = max(self.longest, int(lengths.max(initial=0)))


@dataclass
class Stream:
    """Counters of the rows read from data.train or data.eval."""

    read: int = 0
    bad: int = 0
    untrained: int = 0  # no target is left, possibly after truncation to max_length
    truncated: int = 0  # cut at max_length
    too_long: int = 0  # left out by data.truncate=drop
    split: int = 0  # cut into several rows by data.truncate=split
    shortened: int = 0  # without their oldest turns, by data.truncate=drop_turns
    tokens: int = 0  # before truncation
    characters: int = 0
    longest: int = 0  # tokens, before truncation
    overlap: int = 0  # rows that are in data.eval too, or contain texts that clean.leakage looks for
    dropped: int = 0  # by a rule of `clean`, or by data.overlap
    first_bad: list[str] = field(default_factory=list)

    @classmethod
    def total(cls, parts: Iterable[Mapping[str, Any]]) -> "Stream":
        """Returns the sum of counters, in the order of the rows."""
        found = cls()
        for part in parts:
            for name in COUNTED:
                setattr(found, name, getattr(found, name) + part[name])
            found.longest = max(found.longest, part["longest"])
            found.first_bad = (found.first_bad + part["first_bad"])[:MAX_SHOWN]
        return found

    def count_tokens(self, tokens: int, characters: int) -> None:
        """Counts a row before truncation."""
        self.longest = max(self.longest, tokens)
        self.tokens += tokens
        self.characters += characters

    def add_bad(self, found: RawRow, error: BadField | None, log: TextIO) -> None:
        """Counts a malformed row and logs it as `file:line: field: reason`."""
        line = f"{found.file}:{found.line}: {error or found.reason}"
        self.bad += 1
        if len(self.first_bad) < MAX_SHOWN:
            self.first_bad.append(line)
        log.write(line.encode(errors="backslashreplace").decode().replace("\n", "\\n") + "\n")


@dataclass
class Report:
    """All counters of one preparation, written as report.json."""

    streams: dict[str, Stream] = field(default_factory=dict)
    splits: dict[str, Split] = field(default_factory=dict)
    sources: list[Any] = field(default_factory=list)  # mixing.ItemCounts of each item of data.train and data.eval
    notes: list[str] = field(default_factory=list)  # remarks for the user that apply to all rows
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class LeftOut:
    """One row that is not trained on; `row` is null where it could not be parsed."""

    source: str
    line: int
    rule: str
    reason: str
    row: Any = None

    def as_json(self) -> dict[str, object]:  # JSON: the fields
        return asdict(self)


def json_lines(left_out: Iterable[LeftOut]) -> str:
    """Returns the rows as lines of dropped.jsonl; characters that are not UTF-8 are escaped."""
    return "".join(f"{json.dumps(each.as_json())}\n" for each in left_out)
