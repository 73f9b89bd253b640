"""A config as text in runs/<name>/config.yaml, how two of them differ, and with which changes a run may resume.

A default that another version has changed is not a change of the run: the frozen value stays.
"""

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from distft.config.key import WINS, Group, Values, at, covers, leaves, shown
from distft.config.parts import TRACKER, named_tracker
from distft.config.schema import Config, Origin
from distft.run import RunFolder, read_yaml, with_current_names

_SAID = "# said:"


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
    if not line or not line[0].startswith(_SAID):
        return None
    trackers = chosen_words(text).get(TRACKER, "").strip("[]").split(",")
    return frozenset(named_tracker(key, trackers) for key in line[0].removeprefix(_SAID).split())


def read_config(run: RunFolder) -> Config:
    """Returns the frozen config of a run; ValueError when it is not one.

    One of an older version is read as this version's: keys that it lacks have their defaults, `_target_` names that
    have moved are renamed, and keys that are no longer there are left out.
    """
    return parse_config(run.config.read_text())


def parse_config(text: str) -> Config:
    """Returns the config that `frozen_text` has written."""
    values = read_yaml(text)
    if not isinstance(values, dict):
        raise ValueError("is not a mapping of keys")
    origin = Origin(chosen_words(text), keys_said(text) or frozenset())
    try:
        return Config.of(_known_alone(with_current_names(values), Config), origin)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}={shown(first['input'])}: {first['msg']}") from error


def _known_alone(values: Mapping[str, Any], section: type[Group]) -> Values:
    """Returns the values without the keys that `section` does not have."""
    fields = {info.alias or name: info.annotation for name, info in section.model_fields.items()}
    is_open = section.model_config.get("extra") == "allow"
    kept = {name: value for name, value in values.items() if name in fields or is_open}
    for name, value in kept.items():
        inner = fields.get(name)
        if isinstance(inner, type) and issubclass(inner, Group) and isinstance(value, Mapping):
            kept[name] = _known_alone(value, inner)
    return kept


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


# Keys and groups of keys that decide where and how fast a run trains, and what is seen of it; not what it learns.
FREE = (
    "name", "runs_dir", "cache_dir", "trust", "export", "strategy", "launcher", "tracker", "sweep", "checkpoint",
    "model.attention", "model.kernels", "train.micro_batch_size", "train.micro_batch_tokens",
    "train.activation_checkpointing", "train.compile", "train.deterministic", "train.profile",
    "train.on_non_finite", "train.max_non_finite", "train.check_replicas_every",
    "eval.micro_batch_size", "eval.samples", "eval.train_rows", "eval.benchmarks", "eval.benchmarks_every_steps",
    "eval.benchmarks_limit", "eval.benchmarks_path", "data.packing", "data.num_proc",
    "data.max_bad_fraction", "data.max_truncated_fraction", "data.max_untrained_fraction",
)  # fmt: skip

_PLACES = ("name", "runs_dir", "cache_dir", "data.train", "model.path")  # may differ where neither command says so


@dataclass(frozen=True)
class Frozen:
    """The config that a run goes on from, and what was said for it."""

    values: Mapping[str, Any]
    choices: Mapping[str, str]
    given: frozenset[str] | None  # keys of its command line and experiment; None: not known

    def other_defaults(self, config: Config) -> list[str]:
        """Returns the keys that differ though neither command says anything of them: versions have other defaults."""
        if self.given is None:
            return []
        groups = self.choices.keys() | config.choices.keys()
        others = {group for group in groups if self.choices.get(group) != config.choices.get(group)}
        said = {*self.given, *config.given, *others, *_PLACES}
        for row in WINS:  # what gives way to another key changes with that
            if row.key in said and at(self.values, row.key) != at(config.values, row.key):
                said.add(row.over)
        said |= {"launcher"} if "launcher.profile" in said else set()  # whose keys are in no command line
        return [key for key in changed_keys(self.values, config.values) if not covers(said, key)]

    def kept_by(self, config: Config) -> tuple[Values, list[str]]:
        """Returns the config's values with the frozen ones where a default has changed, and a line for each of these.

        A key that only one of the versions has is left as it is in the newer one.
        """
        values, lines = deepcopy(config.values), []
        before, now = dict(leaves(self.values)), dict(leaves(config.values))
        for key in self.other_defaults(config):
            if key in before and key in now:
                _put(values, key, before[key])
                lines.append(f"{key}: {shown(before[key])} (default now {shown(now[key])})")
        return values, lines

    def aligned(self, config: Config) -> Values:
        """Returns the frozen values with the keys that this version has, where no command says anything of them."""
        values, now = deepcopy(dict(self.values)), dict(leaves(config.values))
        for key in self.other_defaults(config):
            if key in now:
                _put(values, key, now[key])
            else:
                group, _, name = key.rpartition(".")
                del (at(values, group) if group else values)[name]
        return values

    def in_words(self, config: Config) -> list[str]:
        """Returns a line for each difference, chosen words in place of their parts: `strategy: zero2 -> fsdp`."""
        return changes(self.aligned(config), config.values, self.choices, config.choices)


def _put(tree: Values, key: str, value: Any) -> None:
    *groups, name = key.split(".")
    for group in groups:
        tree = tree.setdefault(group, {})
    tree[name] = value


def meanings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns the keys of other value that change what the run learns."""
    return [key for key in changed_keys(old, new) if not covers(FREE, key)]


def refusal(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    what: str,
    in_words: Sequence[str] | None = None,
    gave_way: Mapping[str, str] | None = None,
) -> str | None:
    """Returns why a run cannot go on from `old` to `new`, with a line for each difference; None when it can.

    what: the run that it goes on from, in words. in_words: the lines, by default key by key. gave_way: key -> the
    typed one that overrides it; who allows that one allows what follows from it.
    """
    allowed = new["checkpoint"]["allow_change"]
    stronger = gave_way or {}
    keys = [key for key in meanings(old, new) if not covers(allowed, stronger.get(key, key))]
    if not keys:
        return None
    there = {key for key, _ in leaves(new)}
    lines = {line: line.partition(":")[0] for line in in_words or changes(old, new)}
    lines = {line: said for line, said in lines.items() if any(covers([said], key) for key in keys)}
    words = {said for said in lines.values() if "." not in said}
    offered = [_allowing(stronger.get(key, key), there, words) for key in keys]
    way = "another name" if what.startswith("name=") else "the settings of that run"
    first = f"{what} was made with another config. Try: {way}, or {allowing(allowed, offered)}"
    return "\n    ".join([first, *lines])


def _allowing(key: str, there: Collection[str], words: Collection[str]) -> str:
    group = key.partition(".")[0]
    return group if group in words or key not in there else key


def allowing(allowed: Sequence[str], keys: Sequence[str]) -> str:
    """Returns the override that allows `keys` too."""
    return f"checkpoint.allow_change=[{','.join(dict.fromkeys([*allowed, *keys]))}]"
