"""The decisions about all rows of a preparation, from the tags of its blocks, and what is written about them.

cleaning.json has what each rule found, with examples; dropped.jsonl every row that is left out.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import numpy as np

from distft.data.chunks import Chunk
from distft.data.cleaning.contract import Finding
from distft.data.cleaning.engine import Cleaner
from distft.data.cleaning.survey import SHOWN, Decisions, Places, Survey
from distft.data.cleaning.tags import read_tags, rows_as_read
from distft.data.cleaning.view import leaf_texts
from distft.data.counts import OVERLAP, LeftOut, json_lines
from distft.data.statistics import Statistics
from distft.run import write_json


@dataclass
class Cleaning:
    """The decisions about the training rows, block by block."""

    chunks: Sequence[Chunk]
    cleaner: Cleaner | None = None
    decisions: Decisions = field(default_factory=Decisions)
    overlap: set[int] = field(default_factory=set)  # rows left out because they are in data.eval

    @property
    def starts(self) -> Iterator[tuple[int, Chunk]]:
        """Yields each chunk with the number of its first row."""
        start = 0
        for chunk in self.chunks:
            yield start, chunk
            start += chunk.batch.num_rows

    def kept(self, start: int, rows: int) -> np.ndarray:
        """Returns which of consecutive rows stay, bool [rows]."""
        return self._kept[start : start + rows].copy()

    def leaked(self, start: int, rows: int) -> np.ndarray:
        """Returns which of consecutive rows contain held-out texts and are dropped for nothing else, bool [rows]."""
        return self._leaked[start : start + rows]

    @cached_property
    def _kept(self) -> np.ndarray:
        kept = np.ones(sum(chunk.batch.num_rows for chunk in self.chunks), dtype=bool)
        kept[np.array(list(self.decisions.dropped), dtype=np.int64)] = False
        return kept

    @cached_property
    def _leaked(self) -> np.ndarray:
        dropped = self.decisions.dropped
        rows = [row for row in self.decisions.leaked if dropped.get(row, ("leakage",))[0] == "leakage"]
        leaked = np.zeros(len(self._kept), dtype=bool)
        leaked[np.array(rows, dtype=np.int64)] = True
        return leaked

    def add_leak(self, row: int, finding: Finding, drop: bool) -> None:
        """Adds a row that contains texts of a held-out fraction; drop: it leaves training."""
        decisions, found = self.decisions, self.decisions.yields["leakage"]
        reason = finding.reason or ""
        if found.found < SHOWN:
            decisions.shown.setdefault(row, []).append(("leakage", reason))
        found.found += 1
        found.labels.update(finding.labels)
        decisions.leaked.add(row)
        if drop:
            found.dropped += 1
            decisions.dropped[row] = ("leakage", reason)

    def positions(self) -> list[np.ndarray]:
        """Returns the position of each row for the split: of the first row of its group. float64, by chunk"""
        found = [chunk.positions.copy() for chunk in self.chunks]
        if self.decisions.roots:
            flat = np.concatenate(found)
            rows = np.array(list(self.decisions.roots))
            flat[rows] = flat[np.array(list(self.decisions.roots.values()))]
            found = np.split(flat, np.cumsum([len(each) for each in found])[:-1])
        return found


def decide(cleaner: Cleaner | None, chunks: Sequence[Chunk], work: Path) -> Cleaning:
    """Returns the decisions about the rows of the chunks. work: folder for signatures."""
    if cleaner is None:
        return Cleaning(chunks)
    folder = work / "signatures"
    survey, places = Survey(cleaner, folder), Places()
    for chunk in chunks:
        survey.add(read_tags(chunk.path))
        places.add(chunk.places)
    return Cleaning(chunks, cleaner, survey.decide(places))


def write_left_out(path: Path, cleaning: Cleaning, others: Sequence[Chunk] = ()) -> None:
    """Writes dropped.jsonl. others: chunks of held-out rows, whose malformed and untrained rows are left out."""
    with path.open("w") as file:
        for chunk in others:
            file.write(json_lines(LeftOut(**each) for each in chunk.counts["left_out"]))
        for start, chunk in cleaning.starts:
            found = [LeftOut(**each) for each in chunk.counts["left_out"]]
            found += _dropped(cleaning, chunk, start)
            order = {name: number for number, name in enumerate(dict.fromkeys(each.source for each in found))}
            file.write(json_lines(sorted(found, key=lambda each: (order[each.source], each.line))))


def _dropped(cleaning: Cleaning, chunk: Chunk, start: int) -> Iterator[LeftOut]:
    """Yields the rows of a chunk that cleaning, or data.overlap, leaves out."""
    dropped, count = cleaning.decisions.dropped, chunk.batch.num_rows
    rows = [row for row in range(start, start + count) if row in dropped or row in cleaning.overlap]
    if not rows:
        return
    values = list(rows_as_read(chunk.path))
    places = chunk.places
    for row in rows:
        rule, reason = dropped.get(row, (OVERLAP, "it is also in data.eval"))
        yield LeftOut(*places[row - start], rule, reason, values[row - start])


class FoundRow(TypedDict):
    """A row that a rule found: its place, the reason and an excerpt of its text."""

    source: str
    line: int
    reason: str
    text: str


class RuleReport(TypedDict):
    """What a rule found, in cleaning.json. labels: the most frequent first."""

    action: str
    found: int
    dropped: int
    labels: dict[str, int]
    examples: list[FoundRow]


def write_cleaning(folder: Path, cleaning: Cleaning) -> None:
    """Writes cleaning.json, and apart from it timing.json, which differs from one preparation to the next."""
    decisions = cleaning.decisions
    rules: dict[str, RuleReport] = {}
    for name, found in decisions.yields.items():
        labels = dict(sorted(found.labels.items(), key=lambda each: (-each[1], each[0])))
        rules[name] = {
            "action": found.action,
            "found": found.found,
            "dropped": found.dropped,
            "labels": labels,
            "examples": [],
        }
    for start, chunk in cleaning.starts:
        shown = [row for row in decisions.shown if start <= row < start + chunk.batch.num_rows]
        if shown and cleaning.cleaner:
            _add_examples(rules, cleaning.cleaner.excerpt, chunk, start, {row: decisions.shown[row] for row in shown})
    items: Counter[int] = Counter()
    for chunk in cleaning.chunks:
        items[chunk.counts["item"]] += chunk.batch.num_rows
    statistics = Statistics.total(chunk.counts["statistics"] for chunk in cleaning.chunks)
    facts = {"rules": rules, "statistics": statistics.as_json(), "worst": decisions.worst, "items": items}
    write_json(folder / "cleaning.json", facts)
    write_json(folder / "timing.json", {name: round(value, 3) for name, value in decisions.seconds.items()})


def _add_examples(
    rules: dict[str, RuleReport],
    excerpt: Callable[[str], str],
    chunk: Chunk,
    start: int,
    shown: dict[int, list[tuple[str, str]]],
) -> None:
    values, places = list(rows_as_read(chunk.path)), chunk.places
    for row, found in sorted(shown.items()):
        source, line = places[row - start]
        value = values[row - start]
        text = excerpt("\n".join(leaf_texts(value)) or json.dumps(value))
        for name, reason in found:
            rules[name]["examples"].append({"source": source, "line": line, "reason": reason, "text": text})
