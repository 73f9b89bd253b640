"""The cleaning rules of a config, applied to rows: tags first, per batch and in any process, decisions afterwards."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import xxhash

from distft.config.schema import Config
from distft.data.cleaning.contract import Columns, Finding
from distft.data.cleaning.options import GROUPS, is_cleaned, overlap_action, rule_module, rules_that_are_on
from distft.data.cleaning.rules.leakage import Item
from distft.data.cleaning.view import View, view_of, with_texts
from distft.data.example import Example
from distft.data.raw import RawRow

CHANGING = ("repair", "redact")  # actions that train on another text
NOT_KEYWORDS = ("enabled", "action", "against")  # keys of a section that its Rule does not take
EXCERPT = 400  # characters of an example in the report


@dataclass(frozen=True)
class ActiveRule:
    """One rule of the config that is on."""

    name: str
    action: str  # tag, drop, repair or redact
    version: int
    rule: Any  # a TextRule, RowRule or SetRule


@dataclass(frozen=True)
class Looked:
    """A row after the rules that change texts: how the others see it, and what was found so far."""

    view: View
    example: Example  # with repaired and redacted texts
    findings: tuple[tuple[str, Finding], ...] = ()  # rule and what it found


@dataclass
class Tagged:
    """What the rules found in consecutive rows: findings by row, and signatures to compare rows by."""

    rows: int
    findings: list[tuple[int, str, Finding]]  # row of these, rule, what it found
    columns: dict[str, Columns]
    seconds: dict[str, float] = field(default_factory=dict)  # by rule


@dataclass(frozen=True)
class Cleaner:
    """The rules that are on, in their order. It holds no state, so processes may share it."""

    rules: tuple[ActiveRule, ...]
    by_prompt: bool = False
    group_field: str | None = None

    def look(self, raw: RawRow, example: Example, seconds: dict[str, float]) -> Looked:
        """Applies the rules that change texts; the first step of a row. seconds: by rule, added to."""
        findings: list[tuple[str, Finding]] = []
        for active in self.rules:
            if hasattr(active.rule, "change"):
                with _timed(seconds, active.name):
                    changed, found = _changed(active.rule, example)
                if found:
                    findings.append((active.name, _joined(found)))
                    example = changed if active.action in CHANGING else example
        return Looked(view_of(raw.file, raw.line, example, raw.value), example, tuple(findings))

    def excerpt(self, text: str) -> str:
        """Returns the start of a text as the report shows it: redacted wherever personal data are looked for."""
        for active in self.rules:
            if active.name == "pii" and (change := active.rule.change(text[: 4 * EXCERPT])) is not None:
                text = change.text
        return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}..."

    def tag(self, looked: Sequence[Looked], seconds: dict[str, float]) -> Tagged:
        """Returns what all rules find in consecutive rows, and what they are compared by."""
        views = [each.view for each in looked]
        tagged = Tagged(
            len(views), [(i, *found) for i, each in enumerate(looked) for found in each.findings], {}, seconds
        )
        for active in self.rules:
            rule = active.rule
            with _timed(seconds, active.name):
                if hasattr(rule, "find"):
                    found = ((i, active.name, rule.find(view)) for i, view in enumerate(views))
                    tagged.findings += [each for each in found if each[2] is not None]
                elif hasattr(rule, "sign"):
                    tagged.columns[active.name] = rule.sign(views)
        if self.by_prompt or self.group_field:
            tagged.columns[GROUPS] = self._group_columns(views)
        return tagged

    def _group_columns(self, views: Sequence[View]) -> Columns:
        columns = {}
        if self.by_prompt:
            columns["prompt"] = np.array([view.identity("prompt") for view in views], dtype=np.uint64)
        if self.group_field:
            columns["field"] = np.array([_field_hash(view, self.group_field) for view in views], dtype=np.uint64)
        return columns

    def guarding(self, items: Iterable[Item]) -> "Cleaner":
        """Returns the cleaner with the held-out texts that its leakage rule looks for."""
        rules = [
            replace(each, rule=each.rule.indexed(items)) if each.name == "leakage" else each for each in self.rules
        ]
        return replace(self, rules=tuple(rules))

    @property
    def guards(self) -> bool:
        """Whether held-out texts are looked for."""
        return any(each.name == "leakage" for each in self.rules)


def make_cleaner(config: Config) -> Cleaner | None:
    """Returns the cleaner of a config; None where it changes nothing. Raises ValueError for a missing package."""
    clean = config.clean
    if not is_cleaned(clean):
        return None
    active = []
    for name in rules_that_are_on(clean):
        module, options = rule_module(name), getattr(clean, name).plain()
        if missing := [package for package in getattr(module, "NEEDS", ()) if find_spec(package) is None]:
            raise ValueError(f"clean.{name}.enabled=true needs {missing[0]}. Try: pip install 'distft[data]'")
        action = overlap_action(config) if name == "leakage" else options["action"]
        keywords = {key: value for key, value in options.items() if key not in NOT_KEYWORDS}
        active.append(ActiveRule(name, "tag" if action == "warn" else action, module.VERSION, module.Rule(**keywords)))
    return Cleaner(tuple(active), clean.groups.by_prompt, clean.groups.field)


def _changed(rule: Any, example: Example) -> tuple[Example, list[Finding]]:
    """Returns the example that a rule makes of it, and what it found in each different text."""
    findings: dict[str, Finding] = {}

    def change(text: str) -> str:
        if (made := rule.change(text)) is None:
            return text
        findings[text] = made.finding
        return made.text

    return with_texts(example, change), list(findings.values())


def _joined(findings: Sequence[Finding]) -> Finding:
    """Returns the findings of a row's texts as one."""
    reasons = list(dict.fromkeys(found.reason for found in findings if found.reason))
    return Finding("; ".join(reasons) or None, tuple(label for found in findings for label in found.labels))


def _field_hash(view: View, name: str) -> int:
    """Returns the hash of the value of a row's field; 0 where it has none: no group."""
    value = (view.fields or {}).get(name)
    return 0 if value is None else xxhash.xxh3_64_intdigest(str(value).encode(errors="surrogatepass"))


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
