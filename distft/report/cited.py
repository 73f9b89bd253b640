"""Numbers with their source: each value of a card is read from a file of the run by its key, and cited there.

A citation is an HTML comment after the value, `<!-- file#key -->`, invisible where Markdown is rendered. Files are
relative to the run's folder; `prepared/` is the folder of the prepared rows. Keys are dotted paths; those of
metrics.jsonl are `SPLIT.STEP.NAME`, with `*`, `sum` or `max` for all steps.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from distft.run import RunFolder, read_json

PREPARED, METRICS = "prepared", "metrics.jsonl"
MISSING = object()
AGGREGATES: Mapping[str, Callable[[list[float]], float]] = {"sum": sum, "max": max, "count": len}
CITATION = re.compile(r"<!-- ([\w./ -]+)#([^ ]+) -->")


@dataclass(frozen=True)
class Cited:
    """The files of a run, read once each. prepared: the folder of its prepared rows."""

    run: RunFolder
    prepared: Path | None = None
    _files: dict[str, object] = field(default_factory=dict, repr=False, compare=False)

    def value(self, source: str) -> Any:
        """Returns the value at `file#key`; None where the file or the key is missing, or the value is null."""
        name, _, key = source.partition("#")
        content = self._content(name)
        if content is None:
            return None
        found = _metric(content, key) if name == METRICS else _at(content, key)
        return None if found is MISSING else found

    def __call__(self, source: str, form: str = "") -> str | None:
        """Returns the value at `file#key` as text with its citation; None where there is none. form: of format()."""
        value = self.value(source)
        return None if value is None else cite(_text(value, form), source)

    def line(self, name: str, *parts: str | None) -> str | None:
        """Returns a line of a list from parts; None where one is missing."""
        return None if any(part is None for part in parts) else f"- {name}: {''.join(filter(None, parts))}"

    def _content(self, name: str) -> Any:
        if name not in self._files:
            self._files[name] = self._read(self.path(name))
        return self._files[name]

    def path(self, name: str) -> Path | None:
        """Returns the path of a file that citations name."""
        if name.startswith(f"{PREPARED}/"):
            return self.prepared / name.removeprefix(f"{PREPARED}/") if self.prepared else None
        return self.run.path / name

    def _read(self, path: Path | None) -> Any:
        if path is None or not path.is_file():
            return None
        if path.name == METRICS:
            return list(self.run.read_metrics())
        if path.suffix == ".yaml":
            return yaml.safe_load(path.read_text())
        if path.suffix == ".json":
            return read_json(path)
        return path.read_text(encoding="utf-8", errors="replace")


def cite(text: str, source: str) -> str:
    """Returns the text with its citation."""
    return f"{text}<!-- {source} -->"


def _text(value: Any, form: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return format(value, form or (",.4g" if isinstance(value, float) else ","))
    if isinstance(value, list):
        return ", ".join(_text(each, form) for each in value)
    return f"`{value}`"


def _at(content: Any, key: str) -> Any:
    """Returns the value at a dotted path; a key may hold dots itself, so the longest one that exists is taken."""
    if not key:
        return content
    if isinstance(content, list):
        head, _, rest = key.partition(".")
        return _at(content[int(head)], rest) if head.isdecimal() and int(head) < len(content) else MISSING
    if not isinstance(content, Mapping):
        return MISSING
    names = sorted((str(name) for name in content if key == str(name) or key.startswith(f"{name}.")), key=len)
    by_text = {str(name): value for name, value in content.items()}
    return _at(by_text[names[-1]], key[len(names[-1]) + 1 :]) if names else MISSING


def _metric(rows: list[Mapping[str, Any]], key: str) -> Any:
    split, which, name = key.split(".", 2)
    of_split = [row for row in rows if row["split"] == split]
    if which == "*":
        return [row[name] for row in of_split if row.get(name) is not None] or MISSING
    if which in AGGREGATES:
        values = [row[name] for row in of_split if row.get(name) is not None]
        return AGGREGATES[which](values) if values else MISSING
    found = [row for row in of_split if str(row["step"]) == which and row.get(name) is not None]
    return found[-1][name] if found else MISSING
