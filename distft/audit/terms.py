"""Term lists: the groups of each axis and the attributes whose company they keep, from a YAML file.

A replacement names what it wants to count. All errors of a file are reported at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from distft.config.errors import ConfigError, did_you_mean, nearest
from distft.data.cleaning.rules.toxicity import LIST as TOXIC_WORDS
from distft.data.cleaning.view import normalized_words

TERMS = Path(__file__).with_name("terms.yaml")
SECTIONS = ("axes", "attributes")
TOXIC = "toxic"  # the kind of attribute that the word list of clean.toxicity makes


@dataclass(frozen=True)
class Group:
    """Terms of one group of an axis."""

    axis: str
    name: str


@dataclass(frozen=True)
class Attribute:
    """One term of a kind, such as an occupation."""

    kind: str
    term: str


Label = Group | Attribute


@dataclass(frozen=True)
class Terms:
    """The terms of all groups and attributes. labels: by term, as normalized words."""

    source: str
    labels: Mapping[tuple[str, ...], tuple[Label, ...]]

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """All groups, in the order of the file."""
        return tuple(dict.fromkeys(each for each in self._all() if isinstance(each, Group)))

    @cached_property
    def attributes(self) -> tuple[Attribute, ...]:
        return tuple(dict.fromkeys(each for each in self._all() if isinstance(each, Attribute)))

    @cached_property
    def axes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(group.axis for group in self.groups))

    @cached_property
    def by_axis(self) -> dict[str, list[Group]]:
        return {axis: [group for group in self.groups if group.axis == axis] for axis in self.axes}

    def _all(self) -> Iterator[Label]:
        for labels in self.labels.values():
            yield from labels

    def find(self, words: Sequence[str]) -> Iterator[tuple[int, tuple[Label, ...]]]:
        """Yields the position and labels of each term in normalized words; the longest of those that begin there."""
        first = self._first_words
        for i, word in enumerate(words):
            if word in first:
                for term in first[word]:
                    if len(term) == 1 or tuple(words[i : i + len(term)]) == term:
                        yield i, self.labels[term]
                        break

    @cached_property
    def _first_words(self) -> dict[str, list[tuple[str, ...]]]:
        by_first: dict[str, list[tuple[str, ...]]] = {}
        for term in sorted(self.labels, key=len, reverse=True):
            by_first.setdefault(term[0], []).append(term)
        return by_first


def load_terms(path: Path | None = None, toxic: Path | None = None) -> Terms:
    """Returns the terms of a file, or distft's own; ConfigError with everything that is wrong with it.

    toxic: a file of toxic words in place of distft's list, which is not used with a file of terms.
    """
    file = TERMS if path is None else path
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"terms={file}: {error.strerror}. Try: a YAML file with axes and attributes"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"terms={file}: is not YAML: {str(error).splitlines()[0]}"]) from error
    if errors := list(_wrong(file, content)):
        raise ConfigError(errors)
    labels: dict[tuple[str, ...], list[Label]] = {}
    for axis, groups in content["axes"].items():
        for name, terms in groups.items():
            for term in terms:
                labels.setdefault(tuple(normalized_words(str(term))), []).append(Group(axis, name))
    for kind, terms in (content.get("attributes") or {}).items():
        for term in terms:
            labels.setdefault(tuple(normalized_words(str(term))), []).append(Attribute(kind, str(term)))
    if path is None or toxic is not None:
        for term in _toxic_words(toxic or TOXIC_WORDS):
            labels.setdefault(tuple(normalized_words(term)), []).append(Attribute(TOXIC, term))
    return Terms(str(path or "distft's own list"), {term: tuple(found) for term, found in labels.items()})


def _toxic_words(file: Path) -> Iterator[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            [f"toxicity={file}: cannot be read: {error}. Try: a text file, a word on each line"]
        ) from error
    terms = [line.rstrip("*") for line in lines if not line.startswith("#") and normalized_words(line)]
    if not terms:
        raise ConfigError([f"toxicity={file}: lists no words. Try: a text file, a word or phrase on each line"])
    yield from terms


def _wrong(file: Path, content: Any) -> Iterator[str]:
    if not isinstance(content, dict) or not isinstance(content.get("axes"), dict) or not content["axes"]:
        yield f"terms={file}: has no axes. Try: axes: {{gender: {{female: [she, her], male: [he, him]}}}}"
        return
    for key in content:
        if key not in SECTIONS:
            yield f"terms={file}: {key} is not read.{did_you_mean(nearest(str(key), SECTIONS))}"
    for axis, groups in content["axes"].items():
        if not isinstance(groups, dict) or len(groups) < 2:
            yield f"terms={file}: axes.{axis}: is not a mapping of at least two groups to their terms"
            continue
        for name, terms in groups.items():
            yield from _wrong_terms(file, f"axes.{axis}.{name}", terms)
        listed = {name: terms for name, terms in groups.items() if isinstance(terms, list)}
        names = [(name, tuple(normalized_words(str(term)))) for name, terms in listed.items() for term in terms]
        for name, term in names:
            if twice := [other for other, same in names if same == term and other > name]:
                yield f"terms={file}: axes.{axis}: {' '.join(term)!r} is in {name} and in {twice[0]}"
    attributes = content.get("attributes") or {}
    if not isinstance(attributes, dict):
        yield f"terms={file}: attributes: is not a mapping of kinds to their terms"
        return
    for kind, terms in attributes.items():
        yield from _wrong_terms(file, f"attributes.{kind}", terms)


def _wrong_terms(file: Path, where: str, terms: Any) -> Iterator[str]:
    if not isinstance(terms, list) or not terms:
        yield f"terms={file}: {where}: is not a list of terms"
        return
    for term in terms:
        if not isinstance(term, str) or not normalized_words(term):
            yield f"terms={file}: {where}: {term!r} is not a word or phrase. Try: quotes around it"
