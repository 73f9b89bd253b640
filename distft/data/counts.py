"""Counts of what preparing the data did to its rows: each that is not trained on stands under its reason."""

from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

from distft.data.example import BadField
from distft.data.read import RawRow
from distft.data.shards import Row

SHOWN = 5


@dataclass
class Split:
    """Rows that were written, by split."""

    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0

    def add(self, row: Row) -> None:
        self.rows += 1
        self.tokens += len(row.input_ids)
        self.trained_tokens += int(row.trained[1:].sum())
        self.longest = max(self.longest, len(row.input_ids))


@dataclass
class Stream:
    """Rows as they were read from data.train or data.eval."""

    read: int = 0
    bad: int = 0
    untrained: int = 0  # without a token to train on, maybe after the cut at max_length
    truncated: int = 0
    longest: int = 0  # before the cut
    overlap: int = 0  # whose text is also in an own data.eval
    first_bad: list[str] = field(default_factory=list)

    def add_bad(self, found: RawRow, error: BadField | None, log: TextIO) -> None:
        """Counts a bad row and writes it as `file:line: field: reason`."""
        line = f"{found.file}:{found.line}: {error or found.reason}"
        self.bad += 1
        if len(self.first_bad) < SHOWN:
            self.first_bad.append(line)
        log.write(line.encode(errors="backslashreplace").decode().replace("\n", "\\n") + "\n")


@dataclass
class Report:
    """All counts of one preparation."""

    streams: dict[str, Stream] = field(default_factory=dict)
    splits: dict[str, Split] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what was done to all rows, in words
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
