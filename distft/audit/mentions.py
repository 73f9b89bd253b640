"""Mentions of groups in rows, and the attributes in their company: what is counted while rows are read once.

The unit of every test is the row: a term that a row repeats counts once for it, so long rows do not make a small sample
look large. Mentions per million words count every occurrence.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
    return Seen(len(words), Counter(group for _, group in groups), frozenset(a for _, a in attributes), frozenset(pairs))


@dataclass
class Counts:
    """Counts of all rows, by part: `all`, `role ROLE` and `source FILE`."""

    terms: Terms
    cells: dict[str, Cell] = field(default_factory=dict)

    def add(self, view: View) -> frozenset[Label]:
        """Counts a row; returns the groups and attributes that it names."""
        by_role: dict[str, list[Seen]] = {}
        for text in view.texts:
            by_role.setdefault(text.role, []).append(look(text.text, self.terms))
        whole = [seen for found in by_role.values() for seen in found]
        labels = self._count(ALL, whole)
        self._count(f"source {view.source}", whole)
        for role, found in by_role.items():
            self._count(f"role {role}", found)
        return labels

    def without(self, lost: "Counts") -> "Counts":
        """Returns the counts of the rows that are not among `lost`, which were counted here too."""
        return Counts(self.terms, {part: cell.without(lost.cells.get(part, Cell())) for part, cell in self.cells.items()})

    def _count(self, part: str, found: Sequence[Seen]) -> frozenset[Label]:
        cell = self.cells.setdefault(part, Cell())
        cell.rows += 1
        cell.words += sum(seen.words for seen in found)
        mentions: Counter[Group] = Counter()
        for seen in found:
            mentions.update(seen.mentions)
        labels: frozenset[Label] = frozenset({*mentions, *(each for seen in found for each in seen.attributes)})
        cell.rows_with.update(labels)
        if not mentions:
            return labels
        cell.mentions.update(mentions)
        pairs = {pair for seen in found for pair in seen.together}
        cell.together.update(pairs)
        self._count_others(cell, mentions, pairs)
        return labels

    def _count_others(
        self, cell: Cell, mentions: Mapping[Group, int], pairs: Iterable[tuple[Group, Attribute]]
    ) -> None:
        """Counts, for every group, the rows with another group of its axis: what it is compared with."""
        named = _by_axis(mentions)
        for axis, groups in named.items():
            for group in self.terms.by_axis[axis]:
                if groups - {group}:
                    cell.rows_with_others[group] += 1
        company: dict[tuple[str, Attribute], set[Group]] = {}
        for group, attribute in pairs:
            company.setdefault((group.axis, attribute), set()).add(group)
        for (axis, attribute), groups in company.items():
            for group in self.terms.by_axis[axis]:
                if groups - {group}:
                    cell.others[group, attribute] += 1


def _by_axis(groups: Iterable[Group]) -> dict[str, set[Group]]:
    found: dict[str, set[Group]] = {}
    for group in groups:
        found.setdefault(group.axis, set()).add(group)
    return found
