"""Holds a composed config against the typed model: every key, every value, every file and task that it names.

A key may be the schema's or a keyword of a group's `_target_`. All errors are found at once, each with the nearest
valid choice.
Trap: `org/model` may be a hub id or a folder with a typing error; when the folder `org` is here, it is the latter.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distft.config.data import path_of
from distft.config.errors import NOT_OURS, OURS, did_you_mean, nearest, nearest_key
from distft.config.key import MISSING, NULL, Key, at, covers, leaves, shown
from distft.config.parts import TARGET_GROUPS, TRACKER, read_elsewhere, target_sections
from distft.config.schema import BY_PATH, KEYS, Config
from distft.config.targets import TRUSTED, NotFound, NotInstalled, Parameter, Signature, names_beside, signature
from distft.paths import absolute, matching

_HYDRA_KEYS = ("_target_", "_partial_")
NO_KEY = " --help lists them"
_OPEN = ("data.fields",)  # the user's own names
_OF_THE_MODEL = ("model.architecture", "model.tiny_architecture")  # facts that the model's YAML lists


def _no_words(_: str) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Known:
    """The keys that one choice of groups and targets offers; `open_groups` take any key.

    words_with: key -> the words of its group that have it.
    """

    keys: dict[str, Key]
    open_groups: tuple[str, ...]
    required: tuple[str, ...]
    errors: tuple[str, ...]
    words_with: Callable[[str], Sequence[str]] = _no_words

    def key(self, path: str) -> Key | None:
        """Returns the key that `path` sets: itself, or the mapping it stands in."""
        parts = path.split(".")
        prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        return next((self.keys[prefix] for prefix in prefixes if self._takes(prefix, path)), None)

    def _takes(self, prefix: str, path: str) -> bool:
        return prefix in self.keys and (prefix == path or prefix in _OPEN)

    def refusal(self, path: str) -> str | None:
        """Returns why a config cannot have `path`; None when it can, or when nobody knows."""
        if self.key(path) or covers(self.open_groups, path):
            return None
        if covers([TRACKER], path) and path in BY_PATH:
            name, names = path.split(".")[1], [*self._trackers(), path.split(".")[1]]
            offered = f"[{','.join(names)}]" if len(names) > 1 else name
            return f"{path} has no effect without the tracker {name}. Try: {TRACKER}={offered}"
        if words := self.words_with(path):
            group = path.partition(".")[0]
            return f"{path} has no effect without {group}={' or '.join(words)}. Try: {group}={words[0]}"
        if any(known.startswith(f"{path}.") for known in self.keys):
            inside = next(known for known in self.keys if known.startswith(f"{path}."))
            return f"{path} is a group of keys. Try: {inside}=..."
        if (last := path.rpartition(".")[2]) in NOT_OURS:
            return f"{path} is not a key: {NOT_OURS[last]}"
        return f"{path} is not a key.{did_you_mean(self.near(path)) or NO_KEY}"

    def near(self, path: str) -> str | None:
        """Returns the key that `path` most likely meant, after the word that it needs, if it is not chosen."""
        known = [each for each in self.keys if "._" not in each or "._" in path]
        others = [each for each in BY_PATH if each not in self.keys]
        if not covers([TRACKER], path):  # names such as `mode` and `project` are of any group
            others = [each for each in others if not covers([TRACKER], each) or each == OURS.get(path)]
        near = nearest_key(path, known, others)
        words = self.words_with(near) if near and "=" not in near and near not in self.keys else ()
        return f"{near.partition('.')[0]}={words[0]} {near}" if near and words else near

    def _trackers(self) -> list[str]:
        names = (path.split(".")[1] for path in self.keys if covers([TRACKER], path))
        return list(dict.fromkeys(names))


def known_keys(tree: Mapping[str, Any], words_with: Callable[[str], Sequence[str]] = _no_words) -> Known:
    """Returns the keys of a composed tree; a target that is not trusted or not there becomes an error."""
    keys = {path: key for path, key in BY_PATH.items() if path.partition(".")[0] not in TARGET_GROUPS}
    for group in _OF_THE_MODEL:
        keys |= {path: Key(path, Any, "a fact of config.json") for path, _ in _facts(tree, group)}
    open_groups, required, errors = [], [], []
    for group in target_sections(tree.get(TRACKER)):
        target = at(tree, f"{group}._target_")
        keys |= {f"{group}.{name}": Key(f"{group}.{name}", Any, "of Hydra") for name in _HYDRA_KEYS}
        if target in (None, MISSING):
            keys |= {path: key for path, key in BY_PATH.items() if path.startswith(f"{group}.")}
            continue
        found = _signature(group, str(target), tuple(at(tree, "trust") or ()), errors)
        if found is None or found.open:
            open_groups.append(group)
            keys |= {path: key for path, key in BY_PATH.items() if path.startswith(f"{group}.")}
            continue
        callers = 1 if at(tree, f"{group}._partial_") else 0  # the first argument comes from the training loop
        for parameter in found.parameters[callers:]:
            path = f"{group}.{parameter.name}"
            keys[path] = _key(path, parameter)
            required += [path] if parameter.required and not callers else []
        if group == "launcher":
            keys |= {f"launcher.{name}": BY_PATH[f"launcher.{name}"] for name in read_elsewhere(str(target))}
    return Known(keys, tuple(open_groups), tuple(required), tuple(errors), words_with)


def _facts(tree: Mapping[str, Any], group: str) -> list[tuple[str, Any]]:
    """Returns the leaves of both descriptions of the architecture, as keys of `group`."""
    both = {**(at(tree, _OF_THE_MODEL[0]) or {}), **(at(tree, _OF_THE_MODEL[1]) or {})}
    return list(leaves(both, prefix=f"{group}."))


def _key(path: str, parameter: Parameter) -> Key:
    return BY_PATH.get(path) or Key(path, parameter.annotation)


def _signature(group: str, target: str, trust: tuple[str, ...], errors: list[str]) -> Signature | None:
    prefixes = (*TRUSTED, *(f"{prefix.rstrip('.')}." for prefix in map(str, trust)))
    if not target.startswith(prefixes):
        own = f"{target.partition('.')[0]}."
        errors.append(
            f"{group}._target_={target}: code is run from {', '.join(prefixes)} only. Try: trust=[{own}] allows it"
        )
        return None
    try:
        return signature(target)
    except NotInstalled as error:
        if not target.startswith(TRUSTED):  # a login node may lack torch: its keywords are looked at where it is
            errors.append(f"{group}._target_={target}: {error}. Try: pip install {target.partition('.')[0]}")
        return None
    except NotFound as error:
        errors.append(f"{group}._target_={target}: {error}.{did_you_mean(nearest(target, names_beside(target)))}")
        return None


NOTHING = ("", "none", "null", "nil", "undefined")  # typed by those who mean null
_OWN_NOTHING = {"data.chat_template": "none"}  # a word of its own there
_BOOLS = dict.fromkeys(("1", "yes", "on", "y", "t"), True) | dict.fromkeys(("0", "no", "off", "n", "f"), False)
ALWAYS = [key.path for key in KEYS if key.path.partition(".")[0] not in TARGET_GROUPS]


def wrong_values(
    tree: Mapping[str, Any], known: Known, defaults: Mapping[str, Any], given: Collection[str]
) -> dict[str, str]:
    """Returns key -> error for everything in `tree` that stands at no key or does not fit it, and for what is missing.

    defaults: the tree without the user's own values; the last resort for a nearest valid choice.
    given: keys that the user set; a key that comes from a YAML but not with this target can only be left out.
    """
    errors = {}
    whole = [path for path, key in known.keys.items() if dict in key.types and not _has_inner(path, known)]
    present, unfit = dict(leaves(tree, whole)), _unfit(tree)
    for path, value in present.items():
        key = known.key(path)
        if refusal := known.refusal(path):
            errors[path] = f"{path}={shown(value)}: {refusal if path in given else f'is not a key. Try: ~{path}'}"
        elif isinstance(value, str) and value == MISSING:
            errors[path] = f"{path} is missing: {key.help if key else 'a value'}. Try: {path}=..."
        elif key and (said := _is_nothing(key, value, at(defaults, path))):
            errors[path] = said
        elif key and (path in unfit or (key.path not in BY_PATH and not key.fits(value))):
            errors[path] = f"{path}={shown(value)} is not {key.rule()}.{_hint(key, value, at(defaults, path))}"
    for path in (*ALWAYS, *known.required):
        if at(tree, path, MISSING) == MISSING and path not in errors:
            errors[path] = f"{path} is missing. Try: {path}=..."
    return errors


def _unfit(tree: Mapping[str, Any]) -> set[str]:
    """Returns the keys of the schema whose values the model refuses."""
    try:
        Config.model_validate(tree)
    except ValidationError as error:
        return {_key_at(each["loc"]) for each in error.errors(include_url=False, include_context=False)}
    return set()


def _key_at(location: tuple[int | str, ...]) -> str:
    """Returns the key of a place in the model: without the alternative of a union, or the item of a list."""
    names = [str(name) for name in location]
    return next((path for i in range(len(names), 0, -1) if (path := ".".join(names[:i])) in BY_PATH), ".".join(names))


def _is_nothing(key: Key, value: Any, default: Any) -> str | None:
    """Returns what to say of a word that stands for no value and would be taken for text: a run or file named so."""
    is_word = isinstance(value, str) and value.strip().casefold() in NOTHING
    if not is_word or not key.types or value in (*key.choices, _OWN_NOTHING.get(key.path)):
        return None
    if NULL in key.types:
        return f"{key.path}={value} is {'text' if value.strip() else 'empty'}. Did you mean {key.path}=null?"
    if str not in key.types or key.choices:
        return None  # its rule reports it
    offered = f"{key.path}={shown(default)}" if default not in (None, MISSING, "") else f"{key.path}=..."
    return f"{key.path}={value} says nothing, and a value is needed. Try: {offered}"


def _has_inner(path: str, known: Known) -> bool:
    return any(other.startswith(f"{path}.") for other in known.keys)


def _hint(key: Key, value: Any, default: Any) -> str:
    """Returns the end of an error: the valid value that the user may have meant, else the default if there is one."""
    number = _number(value)
    if number is not None and isinstance(value, str) and key.fits(_whole(number)):
        return f" In quotes it is text. Try: {key.path}={shown(_whole(number))}"
    if number is not None:
        ends = [end for word, end in key.ends if (number < end) == (word == "of at least")]
        for candidate in [round(number), number, *map(_whole, ends)]:
            if key.fits(candidate):
                return did_you_mean(shown(candidate))
    if bool in key.types and (said := str(value).lower()) in _BOOLS:
        return did_you_mean(shown(_BOOLS[said]))
    if NULL in key.types and str(value).lower() in ("", "none", "nil", "no", "off", "false"):
        return did_you_mean("null")
    if key.choices and (near := nearest(str(value), key.choices)):
        return did_you_mean(near)
    if list in key.types and isinstance(value, str) and (not key.items or value in key.items):
        return f" Try: {key.path}=[{value}]"
    if key.items:
        given = value if isinstance(value, list) else [value]
        meant = dict.fromkeys(found for word in given if (found := nearest(str(word), key.items)))
        return did_you_mean(f"[{', '.join(meant)}]" if meant else None)
    if default == MISSING:
        return f" Try: {key.path}=..."
    known = key.fits(default) and default is not None
    return f" The default is {shown(default)}." if known else ""


def _number(value: Any) -> float | None:
    """Returns the finite number that a value is or reads like."""
    try:
        number = float(str(value).replace("_", ""))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _whole(number: float) -> float | int:
    return int(number) if number == int(number) else number


_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_STEP = re.compile(r"step-?\d+|\d+")
_DATA_FILE = re.compile(r"\.(jsonl?|ndjson|csv|tsv|parquet|arrow|txt|md|html?|zip)(\.(gz|zst|bz2))?$", re.IGNORECASE)


def missing_files(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields key and error for every path that names nothing here and can be no hub id."""
    tiny = at(values, "model.tiny")
    for key in (*(() if tiny else ("model.path",)), "model.tokenizer"):
        yield from _missing(key, at(values, key), hub=True)
    for key in ("data.train", "data.eval"):
        value = at(values, key)
        for item in value if isinstance(value, list) else [value]:
            path = path_of(item)
            yield from _missing(key, path, hub=not _DATA_FILE.search(str(path)))
    if at(values, "loss.teacher") != MISSING:
        yield from _missing("loss.teacher", at(values, "loss.teacher"), hub=True)
    yield from _missing("clean.toxicity.words", at(values, "clean.toxicity.words"), hub=False)
    for path in at(values, "clean.leakage.against") or ():
        yield from _missing("clean.leakage.against", path, hub=False)
    resume = at(values, "checkpoint.resume")
    if resume in ("best", "latest") or _STEP.fullmatch(str(resume)):
        named = str(at(values, "name") or "NAME")
        path = Path(str(at(values, "runs_dir"))) / named / "checkpoints" / str(resume)
        auto = "auto goes on from the newest one. " if resume == "latest" else ""
        yield "checkpoint.resume", f"checkpoint.resume={resume}: {auto}A checkpoint is named by its path. Try: {path}"
    elif resume not in ("auto", "never"):
        yield from _missing("checkpoint.resume", resume, hub=False, words=("auto", "never"))
    if at(values, "data.chat_template") not in ("auto", "none"):
        yield from _missing("data.chat_template", at(values, "data.chat_template"), hub=False, words=("auto", "none"))


def _missing(key: str, value: Any, *, hub: bool, words: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    if not isinstance(value, str) or value == MISSING:
        return
    path = absolute(value)
    if path.exists() or "://" in value or ("*" in value and any(matching(path))):
        return
    if hub and is_hub_id(value):
        return
    folder = next(parent for parent in path.parents if parent.is_dir())
    meant = nearest(value, words) or nearest_path(path)
    hint = did_you_mean(meant) or f" Try: a name in {folder}"
    yield key, f"{key}={value}: there is no such file or folder.{hint}"


def is_hub_id(value: str) -> bool:
    """Returns whether a name that is not a path here can be a hub id: `name`, or `org/name` without a folder `org`."""
    return _HUB_ID.fullmatch(value) is not None and not ("/" in value and absolute(value).parent.is_dir())


def nearest_path(path: Path) -> str | None:
    """Returns the most alike existing path: there or in the deepest folder of its that exists."""
    folder = next(parent for parent in path.parents if parent.is_dir())
    if (folder / path.name).exists():
        return str(folder / path.name)
    missing = path.relative_to(folder).parts[0]
    try:
        names = [other.name for other in folder.iterdir()]
    except OSError:
        return None
    meant = nearest(missing, names)
    return str(folder / meant) if meant else None


_READY_TASKS = Path(__file__).parents[1] / "evaluate" / "tasks"
_TASK_KEYS = ("task", "group", "tag")  # keys whose value is a name


def ready_tasks() -> list[str]:
    """Returns the names of the tasks that need no file of one's own."""
    return sorted(file.stem for file in _READY_TASKS.glob("*.yaml"))


def own_tasks(folder: Path) -> list[str]:
    """Returns the names of the tasks and groups in the YAML files of a folder."""
    found = []
    for file in sorted(folder.rglob("*.yaml")):
        for line in file.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key in _TASK_KEYS and value.strip() and not value.strip().startswith("["):
                found.append(value.strip().strip("'\""))
    return found


def wrong_benchmarks(names: Sequence[str], folder: str | None, key: str, folder_key: str) -> list[str]:
    """Returns a message for each name that is no task, for a folder without tasks, and where lm-eval is missing.

    folder: with YAML tasks, under `folder_key`. key: under which the names are.
    """
    if not names:
        return []
    if find_spec("lm_eval") is None:
        return [f"{key}=[{','.join(names)}]: lm-eval is not installed. Try: pip install 'distft[eval]'"]
    errors: list[str] = []
    own = own_tasks(absolute(folder)) if folder is not None else []
    if folder is not None and not own:
        errors.append(f"{folder_key}={folder}: has no YAML file with a task. Try: a folder of such files")
    known = [*own, *ready_tasks()]
    return errors + [
        f"{key}: there is no task {name}.{did_you_mean(nearest(name, known))} Allowed: {', '.join(known)}, and "
        "those of `lm-eval ls tasks`"
        for name in unknown_tasks([name for name in names if name not in known])
    ]


def unknown_tasks(names: Sequence[str]) -> list[str]:
    """Returns the names that no task file of lm-eval holds as a word.

    Its own index parses all 14,000 files, which takes 20 s; reading them takes one.
    """
    waiting = {name: re.compile(rb"(?<![\w.-])" + re.escape(name.encode()) + rb"(?![\w.-])") for name in names}
    spec = find_spec("lm_eval") if names else None
    folders = [Path(folder) / "tasks" for folder in (spec.submodule_search_locations or ())] if spec else []
    for file in (file for folder in folders for file in folder.rglob("*")):
        if waiting and file.suffix not in (".py", ".md") and file.is_file():
            content = file.read_bytes()
            waiting = {name: word for name, word in waiting.items() if not word.search(content)}
    return list(waiting)
