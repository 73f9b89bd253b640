"""Dataset formats: detected from the rows' fields, or named by data.format.

A format is a module of this package with FIELDS (required), OPTIONAL and `example(row, names) -> Example`, which raises
BadField for a malformed row. It receives only the fields that it declares; fields that no format reads are an error,
never dropped silently. Optional constants:
  OBJECTS  the fields of objects in a list field
  OPEN     list fields whose objects may have further keys: the chat template must read those
  TASKS    the tasks that its rows are for, `causal_lm` by default
  fits     `fits(row, names) -> bool`: what else data.format=auto demands of a row; False in its place: never detected
"""

import importlib
import pkgutil
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from distft.config.errors import did_you_mean, nearest
from distft.config.overrides import quoted
from distft.data import formats
from distft.data.example import BadField, Example, RawJson

EMPTY = (None, "", [], {})
NOT_TEXT = ("images", "image", "videos", "audio", "audios")
UNSUPPORTED: dict[str, str] = dict.fromkeys(NOT_TEXT, "only text can be trained on")
COMMON_NAMES = {  # common names in other datasets for the fields of prompt_completion
    "prompt": ("question", "instruction", "query", "problem", "input", "inputs", "user"),
    "completion": ("answer", "response", "output", "target", "targets", "solution", "assistant"),
}


@dataclass(frozen=True)
class Format:
    """A format, with the names that this dataset uses for its fields."""

    name: str
    fields: tuple[str, ...]
    names: dict[str, str]
    objects: dict[str, dict[str, str]]  # list field, "" for the row -> name in the dataset -> our name
    example: Callable[[RawJson, dict[str, str]], Example]
    ignored: frozenset[str]
    open: frozenset[str] = frozenset()  # our names of list fields whose objects may have further keys
    tasks: tuple[str, ...] = ("causal_lm",)
    fits: Callable[[RawJson, dict[str, str]], bool] | bool = True
    seen: set[str] = field(default_factory=set)  # names found in rows, read or ignored

    def matches(self, row: RawJson) -> bool:
        """Returns whether a row has every required field of the format; null is absent."""
        has_all = all(row.get(self.names[name]) is not None for name in self.fields)
        return has_all and (self.fits(row, self.names) if callable(self.fits) else self.fits)

    def __call__(self, row: RawJson) -> Example:
        """Returns the example; raises BadField for a malformed row."""
        return self.take(row)[0]

    def take(self, row: RawJson) -> tuple[Example, list[str]]:
        """Returns the example and the row's unread fields; raises BadField for a malformed row."""
        unread: list[str] = []
        selected = self._select(row, "", "", unread)
        try:
            return self.example(selected, self.names), unread
        except BadField as error:
            ours = next((name for name, theirs in self.names.items() if theirs == error.field), error.field)
            near = nearest(error.field, [name for name in unread if "[" not in name])
            if error.reason != "is missing" or near is None:
                raise
            hint = f"{error.reason}.{did_you_mean(near)} Try: {fields_override({ours: near})}"
            raise BadField(error.field, hint) from None

    @cached_property
    def _plain(self) -> dict[str, frozenset[str]]:
        """The names of fields that are kept as they are, by the list that they are in."""
        return {
            inside: frozenset(name for name, ours in known.items() if ours not in self.objects) - self.ignored
            for inside, known in self.objects.items()
        }

    def _select(self, values: Mapping[str, Any], inside: str, path: str, unread: list[str]) -> RawJson:
        if values.keys() <= self._plain[inside]:
            self.seen.update(values)
            return dict(values)
        known, kept, seen, ignored = self.objects[inside], {}, self.seen, self.ignored
        for name, value in values.items():
            ours = known.get(name)
            if ours is not None and ours not in self.objects and name not in ignored:
                seen.add(name)
                kept[name] = value
                continue
            if ours is not None or name in self.ignored:
                self.seen.add(name)
            if name in self.ignored:
                continue
            if ours is None and inside in self.open:
                kept |= {} if value in EMPTY else {name: value}
                continue
            if ours is None:
                if value not in EMPTY:
                    unread.append(f"{path}{name}")
                continue
            if ours in self.objects and isinstance(value, list):
                inner = f"{path}{name}[]."
                value = [self._select(item, ours, inner, unread) if isinstance(item, dict) else item for item in value]
            kept[name] = value
        return kept

    def path(self, key: str) -> str:
        """Returns the path of a key that the chat template does not read: the row's `tools`, else of a message."""
        lists = next((self.names[name] for name in self.open), "messages")
        return self.names.get("tools", key) if key == "tools" else f"{lists}[].{key}"

    def near(self, name: str, others: Sequence[str] = ()) -> str | None:
        """Returns the field of the format that is the closest to an unread one; None where none is close.

        others: further names, of keys that the chat template reads.
        """
        path, _, last = name.rpartition("[].")
        parent = path.split("[].")[-1]
        inside = next((ours for ours in self.objects if ours and self.names[ours] == parent), "")
        return None if last in UNSUPPORTED else nearest(last, [*self.objects[inside], *others])


class Unread(NamedTuple):
    """A field that nothing reads, where it occurs first, and what is known of it."""

    path: str
    place: str
    form: Format
    hint: str = ""


@dataclass
class UnreadFields:
    """Fields of rows that neither a format nor the chat template reads, by the role of their message and their name."""

    places: dict[tuple[str, str], Unread] = field(default_factory=dict)
    rendered: set[tuple[str, str]] = field(default_factory=set)  # (role, key) that the template reads in other rows
    seen: set[str] = field(default_factory=set)
    elsewhere: frozenset[str] = frozenset()  # columns that the caller reads

    def add(self, names: Sequence[str], place: str, form: Format) -> None:
        """Adds fields that the format does not read."""
        self.seen |= form.seen
        for name in names:
            if name in self.elsewhere:
                continue
            why, near = UNSUPPORTED.get(name.rpartition(".")[2]), form.near(name)
            self.places.setdefault(("", name), Unread(name, place, form, f"; {why}" if why else _perhaps(near)))

    def add_unrendered(self, unread: Sequence[tuple[str, str]], place: str, form: Format, known: Sequence[str]) -> None:
        """Adds (role, key) that the chat template does not read; known: keys that it may read."""
        for role, key in unread:
            path = form.path(key)
            near = form.near(path, [name for name in known if name != key])
            hint = f"; the chat template does not read it{_perhaps(near)}"
            self.places.setdefault((role, key), Unread(path, place, form, hint))

    def refuse(self) -> None:
        """Raises one ValueError for all unread fields, with the override that ignores them."""
        found = [unread for key, unread in self.places.items() if key not in self.rendered]
        if not found:
            return
        listed = ", ".join(f"{path or repr(path)} ({place}{hint})" for path, place, _, hint in found)
        forms = {unread.form.name: unread.form for unread in found}
        reads = "; ".join(f"{form.name} reads {', '.join(form.objects[''])}" for form in forms.values())
        ignored = sorted({name for form in forms.values() for name in form.ignored})
        more = dict.fromkeys([*ignored, *(unread.path.rpartition("[].")[2] for unread in found)])
        raise ValueError(
            f"data.ignore_fields={_shown(ignored)}: the rows have fields that no format reads: {listed}. "
            f"Format {reads}. Try: {ignore_override(list(more))} to train without them, or data.fields for other names"
        )

    def check_renamed(self, renamed: Mapping[str, str]) -> None:
        """Raises ValueError where data.fields has a name that no row has."""
        there = {ours: theirs for ours, theirs in renamed.items() if theirs in self.seen}
        if missing := [theirs for ours, theirs in renamed.items() if ours not in there]:
            raise ValueError(f"data.fields: no row has {', '.join(missing)}. Try: {fields_override(there)}")


def _perhaps(near: str | None) -> str:
    return f"; did you mean {near}?" if near else ""


def format_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(formats.__path__))


def load_format(name: str, renamed: Mapping[str, str], ignored: Sequence[str] = ()) -> Format:
    """Returns a format by name; raises ValueError for an unknown format, or field in data.fields."""
    if name not in format_names():
        hint = did_you_mean(nearest(name, format_names()))
        raise ValueError(f"data.format={name} is not a format.{hint} Allowed: auto, {', '.join(format_names())}")
    module = importlib.import_module(f"distft.data.formats.{name}")
    objects: dict[str, tuple[str, ...]] = {"": (*module.FIELDS, *module.OPTIONAL)} | getattr(module, "OBJECTS", {})
    known = [word for words in objects.values() for word in words]
    unknown = [word for word in renamed if word not in known]
    if unknown:
        raise ValueError(f"data.fields.{unknown[0]}: format {name} has the fields {', '.join(known)}")
    names = {word: renamed.get(word, word) for word in known}
    for word in module.FIELDS:
        if names[word] in ignored:
            raise ValueError(f"data.ignore_fields names {names[word]}, which format {name} requires")
    read: dict[str, dict[str, str]] = {}
    for inside, words in objects.items():
        taken = {names[word]: word for word in words if word in renamed}
        if len(taken) < sum(word in renamed for word in words):
            raise ValueError(f"data.fields={dict(renamed)}: two fields have the same name")
        for word in words:
            if taken.setdefault(names[word], word) != word:
                names[word] = ""  # another field has this name here, so no row has this field
        read[inside] = taken
    return Format(
        name,
        module.FIELDS,
        names,
        read,
        module.example,
        frozenset(ignored),
        frozenset(getattr(module, "OPEN", ())),
        getattr(module, "TASKS", ("causal_lm",)),
        getattr(module, "fits", True),
    )


def choose_formats(
    name: str,
    renamed: Mapping[str, str],
    rows: Sequence[RawJson],
    ignored: Sequence[str] = (),
    of_task: Sequence[str] = (),
) -> list[Format]:
    """Returns the format that data.format names; for `auto` every format that `rows` fit, the most common first.

    of_task: the formats of a task that needs labels: the one of them that rows have the fields of is theirs.
    """
    if name != "auto":
        return [load_format(name, renamed, ignored)]
    for each in of_task:
        form = _fitting(each, renamed, ignored)
        if form and any(replace(form, fits=True).matches(row) for row in rows):
            return [replace(form, fits=True)]
    candidates = [form for form in (_fitting(known, renamed, ignored) for known in format_names()) if form]
    votes = {form.name: sum(form.matches(row) for row in rows) for form in candidates}
    found = (form for form in candidates if votes[form.name])
    ranked = sorted(found, key=lambda form: (-votes[form.name], -len(form.fields)))
    have = ", ".join(sorted({key for row in rows for key in row}, key=str)) or "no fields"
    if not ranked:
        raise ValueError(f"data.format=auto: the rows have {have}, which fits no format {_renaming(rows)}")
    best = [form for form in ranked if votes[form.name] == votes[ranked[0].name]]
    best = [form for form in best if not any(set(form.fields) < set(other.fields) for other in best)]
    if any(sum(form.matches(row) for form in best) > 1 for row in rows):
        tries = ", or ".join(f"data.format={form.name}" for form in best)
        raise ValueError(
            f"data.format=auto: the rows ({have}) fit {' and '.join(f.name for f in best)}: name one. Try: {tries}, "
            "and the fields of the other in data.ignore_fields"
        )
    return ranked


def form_of(forms: Sequence[Format], row: RawJson) -> Format:
    """Returns the first format that a row fits, or the first format if it fits none."""
    return next((form for form in forms if form.matches(row)), forms[0])


def ignore_override(names: Sequence[str]) -> str:
    """Returns the override that ignores these fields."""
    return shlex.quote(f"data.ignore_fields={_shown(names)}")


def fields_override(names: Mapping[str, str]) -> str:
    """Returns the override that maps our field names to the names in the rows."""
    return shlex.quote("data.fields={" + ", ".join(f"{ours}: {_typed(name)}" for ours, name in names.items()) + "}")


def _shown(names: Sequence[str]) -> str:
    return f"[{','.join(_typed(name) for name in names)}]"


def _typed(name: str) -> str:
    plain = name.isidentifier() and name.casefold() not in ("null", "true", "false", "nan", "inf")
    return name if plain else f'"{name}"' if "'" in name and '"' not in name else quoted(name)


def _renaming(rows: Sequence[RawJson]) -> str:
    """Returns the fields that the formats require, and advice on data.fields."""
    known = "; ".join(f"{form} requires {', '.join(load_format(form, {}).fields)}" for form in format_names())
    have = sorted({key for row in rows for key in row}, key=str)
    names = {}
    for ours, usual in COMMON_NAMES.items():
        words = [word for word in (ours, *usual) if word in have]
        names[ours] = words[0] if words else nearest(ours, have)
    if all(names.values()) and len(set(names.values())) == len(names):
        renamed = {ours: str(theirs) for ours, theirs in names.items() if ours != theirs}
        return f"({known}). Try: {fields_override(renamed)}"
    return f"({known}). Try: data.fields, with your names for the fields of one of them"


def _fitting(name: str, renamed: Mapping[str, str], ignored: Sequence[str]) -> Format | None:
    """Returns the format if it has every field in data.fields and its required fields are not ignored, else None."""
    try:
        return load_format(name, renamed, ignored)
    except ValueError:
        return None
