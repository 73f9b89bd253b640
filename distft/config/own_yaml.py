"""A YAML file of one's own: `config=FILE` with any keys and words, `launcher.profile=FILE` with launcher keys.

Everything in it is as if typed before the command line, and an error names its line.
Trap: to YAML 1.1 the time limit 12:00:00 is the number 43200, 1e-4 is text and 2024-01-01 is a date.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from distft.config.check import nearest_path
from distft.config.errors import ConfigError, did_you_mean
from distft.config.freeze import chosen_words, keys_said
from distft.config.key import shown
from distft.config.overrides import CONFIG, Override, is_key, long_form
from distft.config.parts import TARGET_GROUPS, TRACKER
from distft.config.schema import BY_PATH
from distft.paths import absolute
from distft.run import current_target

PROFILE = "launcher.profile"
_IS_FROZEN = {"model", "data", "strategy", "optimizer", "schedule", "loss", "launcher"}  # words of its first line
_RESOLVED = {
    "tag:yaml.org,2002:int": (r"[-+]?(0|[1-9][\d_]*)$", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)([eE][-+]?\d+)?$|[-+]?\.(inf|Inf)$|\.nan$",
        "-+.0123456789",
    ),
    "tag:yaml.org,2002:timestamp": None,
}


class _Loader(yaml.SafeLoader):
    """YAML whose numbers are those of YAML 1.2, and which has no dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as the parent declares it
        letter: [each for each in resolvers if each[0] not in _RESOLVED]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


for _tag, _rule in _RESOLVED.items():
    if _rule is not None:
        _Loader.add_implicit_resolver(_tag, re.compile(_rule[0]), list(_rule[1]))


@dataclass(frozen=True)
class OwnFile:
    """What a file says: words of groups, and settings."""

    name: str
    choices: list[Override] = field(default_factory=list)
    settings: list[Override] = field(default_factory=list)
    is_frozen: bool = False  # a run's config.yaml, which holds every key
    said: frozenset[str] | None = None  # of one: the keys that were set for that run; None: not known


def read_own(key: str, typed: str, groups: Iterable[str]) -> OwnFile:
    """Returns what the file `typed` holds; ConfigError with all that is wrong with it.

    key: config, or experiment. groups: the names of the config groups, whose value may be a word.
    """
    groups = set(groups)
    _, content = _read(key, typed)
    name, errors = typed, list[str]()
    words = chosen_words(content)
    is_frozen = words.keys() >= _IS_FROZEN
    found = OwnFile(name, is_frozen=is_frozen, said=keys_said(content))
    for group, word in words.items() if is_frozen else ():
        found.choices.append(_override(f"{name}:1", group, word, word))
    seen: dict[str, int] = {}
    for path, node, line in _entries(_Document(key, name, content), groups, errors):
        at, value = f"{name}:{line}", node.construct()
        errors += _twice(at, path, line, seen)
        if path == CONFIG:
            both = f"{CONFIG}={typed} {CONFIG}={shown(value)}"
            errors.append(f"{at}: {CONFIG}={shown(value)} names another file. Try: {both}")
        elif path == TRACKER and value == {}:
            continue  # a run's config.yaml without trackers
        elif path == TRACKER and isinstance(value, list):
            found.choices.append(_override(at, path, value, f"[{','.join(map(str, value))}]"))
        elif path in groups and (path == "experiment" or value is not None):
            found.choices.append(_override(at, path, value, shown(value)))
        elif path in groups:
            errors.append(f"{at}: {path} is empty. Try: {path}: WORD, or keys below it")
        else:
            text = node.text
            if is_frozen and path.endswith("._target_") and isinstance(value, str):
                value = text = current_target(value)
            found.settings.append(long_form(_override(at, path, value, text)))
    if errors:
        raise ConfigError(errors)
    if not seen:
        raise ConfigError([f"{key}={typed}: is empty. Try: a line such as `data.train: rows.jsonl`"])
    return found


def read_profile(typed: str) -> list[Override]:
    """Returns the settings in the file `typed`, which launcher.profile names; ConfigError when it holds others."""
    errors = list[str]()
    file, text = _read(PROFILE, typed)
    found, seen = [], dict[str, int]()
    for path, node, line in _entries(_Document(PROFILE, str(file), text), (), errors, whole=True):
        at, key, value = f"{file}:{line}", f"launcher.{path}", node.construct()
        errors += _twice(at, key, line, seen)
        if key == PROFILE:
            errors.append(f"{at}: {PROFILE} names another profile, which has no effect. Try: its keys here")
        found.append(_override(at, key, value, node.text))
    if errors:
        raise ConfigError(errors)
    return found


def _twice(at: str, key: str, line: int, seen: dict[str, int]) -> list[str]:
    """Returns the error of a key that an earlier line sets; `seen`: key -> line of those before, and of this one."""
    before = seen.setdefault(key, line)
    return [] if before == line else [f"{at}: {key} is set twice, first in line {before}. Try: one of the two lines"]


def _override(at: str, key: str, value: Any, text: str | None) -> Override:
    return Override(f"{at}: {key}={shown(value)}", "", key, shown(value) if text is None else text, value, at)


def _read(key: str, typed: str) -> tuple[Path, str]:
    """Returns the file and its text; ConfigError when there is none."""
    if not typed or typed == "null":
        raise ConfigError([f"{key}={typed}: names no file. Try: {key}=FILE.yaml"])
    file = absolute(typed)
    if (file / "config.yaml").is_file():
        raise ConfigError([f"{key}={typed}: is a folder. Try: {key}={Path(typed) / 'config.yaml'}"])
    try:
        return file, file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{key}={typed}: is no text in UTF-8 (byte {error.start}). Try: a YAML file"]) from error
    except OSError as error:
        parts = [part.strip() for part in typed.strip("[]").split(",")]
        if len(parts) > 1:
            meant = f" Try: {' '.join(f'{key}={part}' for part in parts)}"
        else:
            meant = did_you_mean(nearest_path(file)) if not file.exists() else " Try: a YAML file"
        raise ConfigError([f"{key}={typed}: cannot be read: {error.strerror}.{meant}"]) from error


@dataclass(frozen=True)
class _Value:
    """A node of the file, and how to make a plain value of it."""

    loader: _Loader
    node: Node
    name: str

    @property
    def text(self) -> str | None:
        """Returns what stands in the file, of a scalar that is not null."""
        is_null = self.node.tag == "tag:yaml.org,2002:null"
        return self.node.value if isinstance(self.node, ScalarNode) and not is_null else None

    def construct(self) -> Any:
        try:
            return self.loader.construct_object(self.node, deep=True)
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError([_at(self.name, error, self.node)]) from error


class _Document:
    """The nodes of one file; ConfigError, with its line, where it is not a mapping."""

    def __init__(self, key: str, name: str, text: str) -> None:
        self.name = name
        self.loader = _Loader(text)
        try:
            node = self.loader.get_single_node()
        except yaml.YAMLError as error:
            raise ConfigError([_at(name, error, None)]) from error
        if node is not None and not isinstance(node, MappingNode):
            what = "a mapping of launcher keys" if key == PROFILE else "a mapping of keys"
            example = "`partition: gpu`" if key == PROFILE else "`data.train: rows.jsonl`"
            raise ConfigError([f"{name}:{_line(node)}: is not {what}. Try: a line such as {example}"])
        self.root = node


def _entries(
    document: _Document, groups: Iterable[str], errors: list[str], *, whole: bool = False
) -> Iterator[tuple[str, _Value, int]]:
    """Yields dotted key, value and line of everything in the file that is no group of keys.

    whole: the file holds the keys of one group, and a mapping under a key is its value.
    """
    words = set(groups)

    def walk(node: MappingNode, prefix: str, inside: tuple[Node, ...]) -> Iterator[tuple[str, _Value, int]]:
        own = [name for name, _ in node.value]
        try:
            document.loader.flatten_mapping(node)  # `<<: *other`
        except yaml.YAMLError as error:
            errors.append(_at(document.name, error, node))
            return
        for name, value in node.value:
            if name not in own and name.value in {each.value for each in own}:
                continue  # merged, and said here too
            if not isinstance(name, ScalarNode) or not is_key(name.value):
                text = f" `{name.value}`" if isinstance(name, ScalarNode) else ""
                errors.append(f"{document.name}:{_line(name)}: the name{text} is not a key. Try: `data.train: FILE`")
            elif value in inside:
                errors.append(f"{document.name}:{_line(name)}: {prefix}{name.value} holds itself")
            elif not prefix and name.value == "defaults" and words:
                yield from _defaults(document, value, words, errors)
            elif isinstance(value, MappingNode) and value.value and not (whole or _is_value(f"{prefix}{name.value}")):
                yield from walk(value, f"{prefix}{name.value}.", (*inside, value))
            else:
                yield f"{prefix}{name.value}", _Value(document.loader, value, document.name), _line(name)

    if document.root is not None:
        yield from walk(document.root, "", (document.root,))


def _is_value(path: str) -> bool:
    """Returns whether a mapping at `path` is a value: the user's own names, or a keyword of a `_target_`."""
    key = BY_PATH.get(path)
    group = path.partition(".")[0]
    return (group in TARGET_GROUPS and path.count(".") > (group == TRACKER)) or (
        key is not None and dict in key.types and not path.startswith("model.")
    )


def _defaults(
    document: _Document, node: Node, groups: set[str], errors: list[str]
) -> Iterator[tuple[str, _Value, int]]:
    """Yields group and word of a Hydra list of defaults, as files in conf/experiment have it."""
    at = f"{document.name}:{_line(node)}"
    if not isinstance(node, SequenceNode):
        errors.append(f"{at}: defaults is a list of groups and words. Try: optimizer: sgd, without it")
        return
    for item in node.value:
        at = f"{document.name}:{_line(item)}"
        if isinstance(item, ScalarNode) and item.value == "_self_":
            continue
        pairs = item.value if isinstance(item, MappingNode) else []
        group = pairs[0][0].value.removeprefix("override ").strip().lstrip("/") if len(pairs) == 1 else None
        if group in groups and isinstance(pairs[0][1], ScalarNode):
            yield group, _Value(document.loader, pairs[0][1], document.name), _line(item)
        else:
            known = ", ".join(sorted(groups))
            errors.append(f"{at}: an item of defaults is `GROUP: WORD`, of the groups {known}")


def _line(node: Node) -> int:
    return node.start_mark.line + 1


def _at(name: str, error: Exception, node: Node | None) -> str:
    """Returns `file:line: problem` of what YAML cannot read."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark else _line(node) if node else 1
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{name}:{line}: is not YAML: {problem}. Try: `key: value` lines, text with special characters in quotes"
