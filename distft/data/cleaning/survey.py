"""From the tags of all rows to one decision for each: dropped by which rule, and in which group it stays.

Tags arrive in the order of the rows. Signatures go to files, so memory holds one column at a time and what is known
of the rows that are found; the decisions do not depend on batches or processes.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, TypedDict

import numpy as np

from distft.data.cleaning.contract import Columns
from distft.data.cleaning.engine import GROUPS, ActiveRule, Cleaner, Tagged

SHOWN = 20  # examples of a rule in the report
WORST = 20  # rows listed that most rules found


@dataclass
class Yield:
    """What one rule found: rows, those dropped by it rather than by an earlier rule, and labels."""

    action: str
    found: int = 0
    dropped: int = 0
    labels: Counter[str] = field(default_factory=Counter)


class Worst(TypedDict):
    """A row that several rules found: FILE:LINE, and their names."""

    place: str
    rules: list[str]


@dataclass
class Decisions:
    """What happens to each row, by its number from 0 among the well-formed rows in the order of the source."""

    dropped: dict[int, tuple[str, str]] = field(default_factory=dict)  # row -> rule and reason
    roots: dict[int, int] = field(default_factory=dict)  # row -> first row of its group, of groups of several
    shown: dict[int, list[tuple[str, str]]] = field(default_factory=dict)  # row -> rules and reasons to show
    leaked: set[int] = field(default_factory=set)  # rows that contain held-out texts
    yields: dict[str, Yield] = field(default_factory=dict)
    worst: list[Worst] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # remarks of the rules on all rows


class Survey:
    """Collects the tags of all rows of a source; `decide` reads them once."""

    def __init__(self, cleaner: Cleaner, folder: Path) -> None:
        """folder: for the signatures; its files may be removed after `decide`."""
        self.cleaner = cleaner
        self.columns = _ColumnFiles(folder)
        self.rows = 0
        self.decisions = Decisions(yields={each.name: Yield(each.action) for each in cleaner.rules})
        self._rules_of: dict[int, set[str]] = {}
        self._action = {each.name: each.action for each in cleaner.rules}

    def add(self, tagged: Tagged) -> None:
        """Takes the tags of the next rows."""
        for i, name, finding in tagged.findings:
            self.decisions.yields[name].labels.update(finding.labels)
            if finding.reason:
                self._found(self.rows + i, name, finding.reason)
        for name, seconds in tagged.seconds.items():
            self.decisions.seconds[name] = self.decisions.seconds.get(name, 0.0) + seconds
        for name, columns in tagged.columns.items():
            self.columns.add(name, columns)
        self.rows += tagged.rows

    def decide(self, place: "Places") -> Decisions:
        """Returns the decision for every row. place: the places of the rows, for reasons that name another row."""
        decisions = self.decisions
        alive = np.ones(self.rows, dtype=bool)
        alive[list(decisions.dropped)] = False
        similar: list[tuple[int, int]] = []
        for active in self.cleaner.rules:
            if hasattr(active.rule, "compare") and self.rows:
                similar += self._compare(active, alive, place)
        for name, _ in decisions.dropped.values():
            decisions.yields[name].dropped += 1
        decisions.roots = self._groups(alive, similar)
        worst = sorted(self._rules_of.items(), key=lambda each: (-len(each[1]), each[0]))[:WORST]
        decisions.worst = [{"place": place(row), "rules": sorted(rules)} for row, rules in worst if len(rules) > 1]
        return decisions

    def _compare(self, active: ActiveRule, alive: np.ndarray, place: "Places") -> list[tuple[int, int]]:
        """Applies a rule that compares rows, and returns the similar pairs that stay."""
        started = perf_counter()
        pairs = []
        columns = self.columns.read(active.name, self.rows)
        for found in list(active.rule.compare(columns, alive)):
            if isinstance(found, str):
                self.decisions.notes.append(found)
                continue
            row, other, reason = found
            self._found(row, active.name, reason.replace("{other}", place(other)) if other is not None else reason)
            if active.action == "drop":
                alive[row] = False
            elif other is not None:
                pairs.append((row, other))
        self.decisions.seconds[active.name] = self.decisions.seconds.get(active.name, 0.0) + perf_counter() - started
        return pairs

    def _found(self, row: int, name: str, reason: str) -> None:
        decisions, found = self.decisions, self.decisions.yields[name]
        if found.found < SHOWN:
            decisions.shown.setdefault(row, []).append((name, reason))
        found.found += 1
        self._rules_of.setdefault(row, set()).add(name)
        if name == "leakage":
            decisions.leaked.add(row)
        if self._action[name] == "drop":
            decisions.dropped.setdefault(row, (name, reason))  # findings of a row come in the order of the rules

    def _groups(self, alive: np.ndarray, similar: list[tuple[int, int]]) -> dict[int, int]:
        """Returns row -> first row of its group, for rows that stay and belong together."""
        parents: dict[int, int] = {}

        def root(row: int) -> int:
            while (above := parents.get(row, row)) != row:
                parents[row] = parents.get(above, above)
                row = above
            return row

        for one, other in [*similar, *self._equal_rows(alive)]:
            if alive[one] and alive[other]:
                low, high = sorted((root(one), root(other)))
                parents[high] = low
        members = {*parents, *parents.values()}
        return {row: root(row) for row in sorted(members)}

    def _equal_rows(self, alive: np.ndarray) -> Iterator[tuple[int, int]]:
        """Yields row and an earlier one with the same prompt or the same value of the group field."""
        columns = self.columns.read(GROUPS, self.rows) if self.rows else {}
        for values in columns.values():
            rows = np.flatnonzero(alive & (np.asarray(values) != 0))
            _, first, inverse = np.unique(values[rows], return_index=True, return_inverse=True)
            earlier = rows[first[inverse]]
            for place in np.flatnonzero(earlier != rows):
                yield int(rows[place]), int(earlier[place])


@dataclass
class Places:
    """Where each row comes from: FILE:LINE of a row's number."""

    files: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # first row of each run of rows of a file
    lines: list[np.ndarray] = field(default_factory=list)
    _rows: int = 0

    def add(self, found: list[tuple[str, int]]) -> None:
        """Takes file and line of the next rows."""
        start = 0
        for end in range(1, len(found) + 1):
            if end == len(found) or found[end][0] != found[start][0]:
                self.files.append(found[start][0])
                self.starts.append(self._rows + start)
                self.lines.append(np.array([line for _, line in found[start:end]], dtype=np.int32))
                start = end
        self._rows += len(found)

    def __call__(self, row: int) -> str:
        run = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"{self.files[run]}:{self.lines[run][row - self.starts[run]]}"


class _ColumnFiles:
    """Columns appended to plain files, read back memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}

    def add(self, rule: str, columns: Columns) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, values in columns.items():
            key = f"{rule}.{name}"
            self.shapes[key] = (values.dtype, values.shape[1:])
            with (self.folder / key).open("ab") as file:
                file.write(np.ascontiguousarray(values).tobytes())

    def read(self, rule: str, rows: int) -> dict[str, np.ndarray]:
        prefix = f"{rule}."
        names = [key.removeprefix(prefix) for key in self.shapes if key.startswith(prefix)]
        found = {name: self._map(f"{prefix}{name}") for name in names}
        assert all(len(found[name]) == rows for name in names if f"{name}_count" not in found), rule
        return found

    def _map(self, key: str) -> np.ndarray:
        dtype, inner = self.shapes[key]
        path = self.folder / key
        if not path.stat().st_size:
            return np.zeros((0, *inner), dtype=dtype)
        return np.memmap(path, dtype=dtype, mode="r").reshape(-1, *inner)
