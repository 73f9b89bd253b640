"""Mentions of groups in rows, and the attributes in their company: what is counted while rows are read once.

The unit of every test is the row: a term that a row repeats counts once for it, so long rows do not make a small sample
look large. Mentions per million words count every occurrence.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

from distft.audit.terms import Attribute, Group, Label, Terms
from distft.data.cleaning.view import View, normalized_words

WINDOW = 25  # words to either side within which an attribute is in a group's company
ALL = "all"


@dataclass
class Cell:
    """Counts of one part of the data: all rows, one source, or the texts of one role."""

    rows: int = 0
    words: int = 0
    mentions: Counter[Group] = field(default_factory=Counter)  # occurrences
    rows_with: Counter[Label] = field(default_factory=Counter)  # rows that name a group or an attribute
    together: Counter[tuple[Group, Attribute]] = field(default_factory=Counter)  # rows with both within WINDOW words
    others: Counter[tuple[Group, Attribute]] = field(default_factory=Counter)  # the same of other groups of the axis
    rows_with_others: Counter[Group] = field(default_factory=Counter)  # rows that name another group of its axis

    def add(self, row: "Row") -> None:
        self.rows += 1
        self.words += row.words
        self.rows_with.update(row.labels)
        if row.mentions:
            self.mentions.update(row.mentions)
            self.together.update(row.together)
            self.others.update(row.others)
            self.rows_with_others.update(row.named_others)

    def with_(self, other: "Cell") -> "Cell":
        """Returns the sum of the counts of two cells."""
        return Cell(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def without(self, other: "Cell") -> "Cell":
        """Returns the counts less those of another cell."""
        return Cell(*(getattr(self, each.name) - getattr(other, each.name) for each in fields(self)))


@dataclass(frozen=True)
class Seen:
    """What one text has."""

    words: int
    mentions: Counter[Group]
    attributes: frozenset[Attribute]
    together: frozenset[tuple[Group, Attribute]]


@dataclass(frozen=True)
class Row:
    """What one row, or one role of it, has; the fields are those of Cell."""

    words: int
    mentions: Counter[Group]
    labels: frozenset[Label]
    together: frozenset[tuple[Group, Attribute]] = frozenset()
    others: tuple[tuple[Group, Attribute], ...] = ()
    named_others: tuple[Group, ...] = ()


def look(text: str, terms: Terms) -> Seen:
    """Returns the mentions in a text."""
    words = normalized_words(text)
    groups: list[tuple[int, Group]] = []
    attributes: list[tuple[int, Attribute]] = []
    for i, labels in terms.find(words):
        for label in labels:
            if isinstance(label, Group):
                groups.append((i, label))
            else:
                attributes.append((i, label))
    pairs = {(group, each) for i, group in groups for j, each in attributes if abs(i - j) <= WINDOW}
    return Seen(
        len(words), Counter(group for _, group in groups), frozenset(a for _, a in attributes), frozenset(pairs)
    )


@dataclass
class Counts:
    """Counts of rows, by part: `role ROLE` and `source FILE`; `whole` adds `all`."""

    terms: Terms
    cells: dict[str, Cell] = field(default_factory=dict)

    def add(self, view: View) -> frozenset[Label]:
        """Counts a row; returns the groups and attributes that it names."""
        by_role: dict[str, list[Seen]] = {}
        for text in view.texts:
            by_role.setdefault(text.role, []).append(look(text.text, self.terms))
        row = self._row([seen for found in by_role.values() for seen in found])
        self._cell(f"source {view.source}").add(row)
        for role, found in by_role.items():
            self._cell(f"role {role}").add(row if len(by_role) == 1 else self._row(found))
        return row.labels

    def whole(self) -> "Counts":
        """Returns the counts with the part `all`, the sum of the sources; a single source is no part of its own."""
        sources = {part: cell for part, cell in self.cells.items() if part.startswith("source ")}
        total = Cell()
        for cell in sources.values():
            total = total.with_(cell)
        parts = self.cells if len(sources) > 1 else {part: c for part, c in self.cells.items() if part not in sources}
        return Counts(self.terms, {ALL: total} | parts)

    def without(self, lost: "Counts") -> "Counts":
        """Returns the counts of the rows that are not among `lost`, which were counted here too."""
        left = {part: cell.without(lost.cells.get(part, Cell())) for part, cell in self.cells.items()}
        return Counts(self.terms, left)

    def _cell(self, part: str) -> Cell:
        return self.cells.setdefault(part, Cell())

    def _row(self, found: Sequence[Seen]) -> Row:
        mentions: Counter[Group] = Counter()
        for seen in found:
            mentions.update(seen.mentions)
        labels: frozenset[Label] = frozenset({*mentions, *(each for seen in found for each in seen.attributes)})
        words = sum(seen.words for seen in found)
        if not mentions:
            return Row(words, mentions, labels)
        pairs = frozenset(pair for seen in found for pair in seen.together)
        company: dict[tuple[str, Attribute], set[Group]] = {}
        for group, attribute in pairs:
            company.setdefault((group.axis, attribute), set()).add(group)
        others = [
            (group, attribute)
            for (axis, attribute), groups in company.items()
            for group in self.terms.by_axis[axis]
            if groups - {group}
        ]
        named = [
            group
            for axis, groups in _by_axis(mentions).items()
            for group in self.terms.by_axis[axis]
            if groups - {group}
        ]
        return Row(words, mentions, labels, pairs, tuple(others), tuple(named))


def _by_axis(groups: Iterable[Group]) -> dict[str, set[Group]]:
    found: dict[str, set[Group]] = {}
    for group in groups:
        found.setdefault(group.axis, set()).add(group)
    return found
