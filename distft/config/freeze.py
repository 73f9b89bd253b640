"""A config, its text in runs/<name>/config.yaml, and how two of them differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from distft.config.tree import leaves
from distft.config.values import shown

_SAID = "# said:"


@dataclass(frozen=True)
class Config:
    """A whole config: plain values, every interpolation resolved, and the word chosen in each group."""

    values: dict[str, Any]
    choices: dict[str, str]
    given: frozenset[str] = frozenset()  # keys that somebody set; all others are defaults
    gave_way: Mapping[str, str] = field(default_factory=dict)  # key -> the one, said more strongly, that overrides it
    notes: tuple[str, ...] = ()  # what was set and gave way to what was typed; usually nothing


def frozen_text(config: Config) -> str:
    """Returns YAML that reads back as `config.values`, the chosen words in its first line, what was said in the next.

    Said: by the command line, a config file or the experiment; all other keys are defaults.
    """
    words = " ".join(f"{group}={word}" for group, word in sorted(config.choices.items()))
    text = yaml.safe_dump(config.values, sort_keys=False, allow_unicode=True, width=120)
    return f"# {words}\n{_SAID} {' '.join(sorted(config.given))}\n{text}"


def chosen_words(text: str) -> dict[str, str]:
    """Returns the words that the first line of a frozen config names."""
    head = text.partition("\n")[0]
    return dict(word.split("=", 1) for word in head[2:].split() if "=" in word) if head.startswith("# ") else {}


def keys_said(text: str) -> frozenset[str] | None:
    """Returns the keys that the second line of a frozen config lists; None of one that has no such line."""
    line = text.split("\n", 2)[1:2]
    return frozenset(line[0].removeprefix(_SAID).split()) if line and line[0].startswith(_SAID) else None


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns the keys whose value differs, or that only one of both has."""
    before, after = dict(leaves(old)), dict(leaves(new))
    return [path for path in dict.fromkeys([*before, *after]) if before.get(path, ...) != after.get(path, ...)]


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns a line for every key whose value differs: `train.max_steps: 12 -> 20`."""
    before, after = dict(leaves(old)), dict(leaves(new))
    return [f"{path}: {_side(before, path)} -> {_side(after, path)}" for path in changed_keys(old, new)]


def changes(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    old_words: Mapping[str, str] | None = None,
    new_words: Mapping[str, str] | None = None,
) -> list[str]:
    """Returns the differences, a chosen word first and without what it alone brings: `strategy: zero2 -> fsdp`.

    old_words, new_words: the word chosen in each group.
    """
    before, after = dict(old_words or {}), dict(new_words or {})
    words = [group for group in before.keys() & after.keys() if before[group] != after[group]]
    lines = [f"{group}: {before[group]} -> {after[group]}" for group in sorted(words)]
    had, has = dict(leaves(old)), dict(leaves(new))
    for line in difference(old, new):
        key = line.partition(":")[0]
        is_of_word = key.partition(".")[0] in words
        is_part = "._" in key or key not in had or key not in has or "architecture." in key
        if not (is_of_word and is_part):
            lines.append(line)
    return lines


def _side(values: Mapping[str, Any], path: str) -> str:
    return shown(values[path]) if path in values else "not set"
