"""Which format the rows have: the one that data.format names, or the one whose fields the rows have.

A format is a module of `distft.data.formats` with FIELDS (a row has all of them), OPTIONAL (further names that
data.fields may rename) and `example(row, names) -> Example`, which raises BadField for a wrong row.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distft.data import formats
from distft.data.example import Example


@dataclass(frozen=True)
class Format:
    """A format with the names that this dataset's rows use for its fields."""

    name: str
    fields: tuple[str, ...]
    names: dict[str, str]
    example: Callable[[dict[str, Any], dict[str, str]], Example]

    def matches(self, row: dict[str, Any]) -> bool:
        return all(self.names[field] in row for field in self.fields)

    def __call__(self, row: dict[str, Any]) -> Example:
        return self.example(row, self.names)


def format_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(formats.__path__))


def load_format(name: str, renamed: dict[str, str]) -> Format:
    """Returns a format by its name; ValueError names the nearest one, or the fields it has."""
    if name not in format_names():
        near = difflib.get_close_matches(name, format_names(), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"data.format={name} is none of auto, {', '.join(format_names())}.{hint}")
    module = importlib.import_module(f"distft.data.formats.{name}")
    known: tuple[str, ...] = (*module.FIELDS, *module.OPTIONAL)
    unknown = [field for field in renamed if field not in known]
    if unknown:
        raise ValueError(f"data.fields.{unknown[0]}: format {name} has the fields {', '.join(known)}")
    return Format(name, module.FIELDS, {field: renamed.get(field, field) for field in known}, module.example)


def choose_format(name: str, renamed: dict[str, str], rows: Sequence[dict[str, Any]]) -> Format:
    """Returns the format that data.format names, or for `auto` the only one that most of `rows` fit."""
    if name != "auto":
        return load_format(name, renamed)
    candidates = [form for form in (_fitting(known, renamed) for known in format_names()) if form]
    votes = {form.name: sum(form.matches(row) for row in rows) for form in candidates}
    best = [form for form in candidates if votes[form.name] == max(votes.values()) > 0]
    if len(best) == 1:
        return best[0]
    have = ", ".join(sorted({key for row in rows for key in row}, key=str)) or "no fields"
    if best:
        raise ValueError(f"data.format=auto: the rows ({have}) fit {' and '.join(f.name for f in best)}: name one")
    known = "; ".join(f"{form} wants {', '.join(load_format(form, {}).fields)}" for form in format_names())
    raise ValueError(f"data.format=auto: the rows have {have}, which fits no format ({known}). Rename with data.fields")


def _fitting(name: str, renamed: dict[str, str]) -> Format | None:
    """Returns the format if it knows every field that the user renamed."""
    try:
        return load_format(name, renamed)
    except ValueError:
        return None
