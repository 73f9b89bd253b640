"""A config as the text of runs/<name>/config.yaml, and how two of them differ."""

from collections.abc import Mapping
from typing import Any

import yaml

from distft.config.compose import Config
from distft.config.tree import leaves
from distft.config.values import shown


def frozen_text(config: Config) -> str:
    """Returns YAML that reads back as `config.values`, the chosen words in its first line."""
    words = " ".join(f"{group}={word}" for group, word in sorted(config.choices.items()))
    return f"# {words}\n{yaml.safe_dump(config.values, sort_keys=False, allow_unicode=True, width=120)}"


def chosen_words(text: str) -> dict[str, str]:
    """Returns the words that the first line of a frozen config names."""
    head = text.partition("\n")[0]
    return dict(word.split("=", 1) for word in head[2:].split() if "=" in word) if head.startswith("# ") else {}


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns the keys whose value differs, or that only one of both has."""
    before, after = dict(leaves(old)), dict(leaves(new))
    return [path for path in dict.fromkeys([*before, *after]) if before.get(path, ...) != after.get(path, ...)]


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns a line for every key whose value differs: `train.max_steps: 12 -> 20`."""
    before, after = dict(leaves(old)), dict(leaves(new))
    return [f"{path}: {_side(before, path)} -> {_side(after, path)}" for path in changed_keys(old, new)]


def _side(values: Mapping[str, Any], path: str) -> str:
    return shown(values[path]) if path in values else "not set"
