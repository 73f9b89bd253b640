"""Counters of one data preparation: rows read, written, truncated and skipped, by reason."""

from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

from distft.data.example import BadField
from distft.data.read import RawRow
from distft.data.shards import Row

MAX_SHOWN = 5  # bad rows that report.json lists


@dataclass
class Split:
    """Counters of the rows written to one split."""

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
    """Counters of the rows read from data.train or data.eval."""

    read: int = 0
    bad: int = 0
    untrained: int = 0  # no target is left, possibly after truncation to max_length
    truncated: int = 0
    longest: int = 0  # tokens, before truncation
    overlap: int = 0  # duplicates of rows in data.eval, when that names files
    first_bad: list[str] = field(default_factory=list)

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
    notes: list[str] = field(default_factory=list)  # remarks for the user that apply to all rows
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
