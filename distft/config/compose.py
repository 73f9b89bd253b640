"""From a command line to a whole, checked config; every error of it at once.

Hydra reports the first unknown key alone, so it composes the chosen words, and the settings are looked at and put
into its tree here.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distft.config.check import known_keys, missing_files, wrong_values
from distft.config.data import wrong_items
from distft.config.errors import ConfigError, did_you_mean, nearest
from distft.config.key import COMMAND_LINE, EXPERIMENT, FILE, MISSING, Values, at, covers, leaves, settle, shown
from distft.config.model_folder import wrong_dropout, wrong_models
from distft.config.overrides import (
    CONFIG,
    Override,
    WrongOverride,
    apply_setting,
    drop_others_keywords,
    long_form,
    split,
    with_long_forms,
    with_targets,
    with_tracker_names,
)
from distft.config.own_yaml import PROFILE, OwnFile, read_own, read_profile
from distft.config.parts import TARGET_GROUPS, TRACKER, named_tracker, target_sections
from distft.config.rules import broken_rules
from distft.config.rules.contract import Facts
from distft.config.schema import SHORT, Config, Origin
from distft.paths import absolute, conf_dir
from distft.run import read_yaml
from distft.tasks import load_task, task_names

_PATH_OF = {"model": "model.path", "data": "data.train", "launcher": "launcher.profile"}


class Groups:
    """The folders of a config folder, each with its words."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = sorted(path for path in folder.iterdir() if path.is_dir())
        self.words = {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in found}

    def has(self, override: Override) -> bool:
        return override.key.lstrip("/") in self.words

    def choice(self, override: Override) -> str:
        """Returns the word of an override, of trackers also `[a,b]`; ConfigError when the group has no such word."""
        group = override.key.lstrip("/")
        words, value = self.words[group], override.value or ""
        can_be_null = group == "experiment"
        if override.prefix != "~" and value in (*words, *(["null"] if can_be_null else [])):
            return value
        if group == TRACKER and override.prefix != "~" and _is_list(value):
            return _list_of_words(override, words)
        meant = _of_a_path(group, value) or did_you_mean(nearest(value or "none", words))
        raise ConfigError([f"{override.text}: {group} is one of {', '.join(words)}.{meant}"])

    def target_of(self, section: str, choices: Mapping[str, str]) -> str | None:
        """Returns the `_target_` that the YAML of a section's word names; of a tracker its name is the word."""
        group, _, name = section.partition(".")
        file = self.folder / group / f"{name or choices[group]}.yaml"
        values = _shipped(file, file.stat().st_mtime_ns) if file.is_file() else {}
        return values.get(name, {}).get("_target_") if name else values.get("_target_")

    def words_with(self, key: str) -> list[str]:
        """Returns the words that have a key of a group whose keys depend on its word; none of trackers."""
        group = key.partition(".")[0]
        if group not in TARGET_GROUPS or group == TRACKER:
            return []
        files = [self.folder / group / f"{word}.yaml" for word in self.words.get(group, ())]
        offered = {file.stem: known_keys({group: _shipped(file, file.stat().st_mtime_ns)}) for file in files}
        return [word for word, known in offered.items() if key in known.keys and group not in known.open_groups]

    def compose(self, choices: Iterable[str]) -> tuple[DictConfig, dict[str, str]]:
        """Returns the tree of these choices, still with its interpolations, and the word of every group."""
        state = tuple((str(file), file.stat().st_mtime_ns) for file in sorted(self.folder.rglob("*.yaml")))
        config, words = _composed(self.folder, tuple(choices), state)
        words = words | {TRACKER: words.get(TRACKER) or _listed(list(config[TRACKER]))}  # Hydra names no list of words
        chosen = {name: word for name, word in words.items() if name in self.words and word}
        return deepcopy(config), chosen

    def keys_of_experiment(self, word: str | None) -> set[str]:
        """Returns the keys that the chosen experiment sets: they count as given by the user."""
        if word is None:
            return set()
        file = self.folder / "experiment" / f"{word}.yaml"
        tree = _shipped(file, file.stat().st_mtime_ns)
        return {SHORT.get(path, path) for path, _ in leaves(tree) if path != "defaults"}


def _of_a_path(group: str, value: str) -> str:
    """Returns the advice for a group that was given a path or a hub id, which one of its keys takes; else nothing."""
    path = value.strip("'\"")
    is_path = "/" in path or path.startswith("~") or (path and absolute(path).exists())
    return f" Try: {_PATH_OF[group]}={value}" if group in _PATH_OF and is_path else ""


@lru_cache(maxsize=256)
def _shipped(file: Path, state: int) -> Mapping[str, Any]:
    """Returns what a YAML file of the config folder holds, which no caller may change; a sweep reads it often."""
    return read_yaml(file) or {}


def _is_list(value: str) -> bool:
    return value.startswith("[") or "," in value


def _list_of_words(override: Override, words: Sequence[str]) -> str:
    """Returns the words that an override chooses, as `[a,b]`; ConfigError with all that is wrong with it."""
    value = override.value or ""
    chosen = [word for each in value.strip("[]").split(",") if (word := each.strip().strip("'\""))]
    errors = [
        f"{override.text}: {word} is not one of {', '.join(words)}.{did_you_mean(nearest(word, words))}"
        for word in chosen
        if word not in words
    ]
    kept = [word for word in dict.fromkeys(chosen) if word != "none" or len(chosen) == 1]
    if not errors and len(kept) < len(chosen):
        errors = [f"{override.text}: names a tracker twice, or none next to another. Try: {_listed(kept)}"]
    if not errors and not value.startswith("["):
        errors = [f"{override.text}: is not a list. Did you mean {override.key}={_listed(kept)}?"]
    if errors:
        raise ConfigError(errors)
    return _listed(kept)


def _listed(words: Sequence[str]) -> str:
    return f"[{','.join(words)}]" if len(words) > 1 else (words[0] if words else "none")


@lru_cache(maxsize=64)
def _composed(folder: Path, choices: tuple[str, ...], state: object) -> tuple[DictConfig, dict[str, str | None]]:
    """Returns what Hydra makes of the choices; a sweep asks for the same ones hundreds of times."""
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            config = hydra_compose("config", list(choices), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError([f"{folder}: {_first_line(error)}"]) from error
    words = dict(config.hydra.runtime.choices)
    OmegaConf.set_struct(config, False)
    config.pop("hydra")
    with_long_forms(config, read_yaml(folder / "config.yaml"))
    return config, words


def resolved(config: DictConfig) -> Values:
    """Returns plain values, interpolations resolved; ConfigError for one that leads nowhere."""
    try:
        values = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([_first_line(error)]) from error
    assert isinstance(values, Mapping)
    return {str(name): value for name, value in values.items()}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def compose(
    overrides: Iterable[str],
    *,
    config_dir: Path | None = None,
    sweep: bool = False,
    kept: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _: {},
) -> Config:
    """Returns the config that `overrides` ask for; ConfigError with all that is wrong with it.

    sweep: of a sweep or of one of its jobs, so that a sweep's own keys, which an experiment may have, have an effect.
    kept: values -> by key what the run they name keeps of its own, so that no file needs to be there.
    """
    groups = Groups(absolute(config_dir or conf_dir()))
    errors: list[str] = []
    asked = _read(overrides, groups, errors)
    config, choices = groups.compose(asked.choices)
    if loss := _loss_of_task(asked, config, choices):
        config, choices = groups.compose([*asked.choices, f"loss={loss}"])
    asked = asked.with_tracker_names(config[TRACKER], groups.words[TRACKER])
    base = resolved(config)
    settings = [*_profile(asked.settings, errors), *asked.settings]
    typed_targets = {setting.key.partition(".")[0] for setting in settings if setting.key.endswith("._target_")}
    known = known_keys(
        with_targets(base, settings),
        lambda key: groups.words_with(key) if key.partition(".")[0] not in typed_targets else [],
    )
    errors += known.errors
    for setting in settings:
        try:
            apply_setting(setting, config, known, groups.words)
        except WrongOverride as error:
            errors.append(str(error))
    said = dict.fromkeys(groups.keys_of_experiment(choices.get("experiment")), EXPERIMENT)
    said |= {setting.key: asked.rank(setting, base) for setting in settings if asked.rank(setting, base)}
    typed = {key for key, rank in said.items() if rank > EXPERIMENT}
    for section in target_sections(config[TRACKER]):
        own = groups.target_of(section, choices)
        drop_others_keywords(config, section, own, known, typed, said.keys() - typed)
    before = resolved(config)
    settled = settle(before, said)
    values, places = settled.values, {setting.key: setting.at for setting in settings}
    wrong = wrong_values(values, known, base, settled.given)
    own = {} if wrong else kept(values)
    for key, value in own.items():
        group, _, name = key.partition(".")
        values[group][name] = value
    wrong |= {key: error for key, error in missing_files(values) if key not in wrong and key not in own}
    errors += [
        f"{places[key]}: {error}" if places.get(key) else error
        for key, error in wrong.items()
        if asked.is_whole or at(values, key, MISSING) != MISSING
    ]
    errors += wrong_items(values["data"])
    errors += wrong_models(values["model"], wrong)
    errors += wrong_dropout(values["model"]) if not any(key.startswith("model.") for key in wrong) else []
    errors += broken_rules(Facts(values, choices, settled.given, sweep), wrong)
    if errors:
        raise ConfigError(errors)
    recipe = f"experiment={choices.get('experiment')}"
    notes = [
        f"{key}={shown(at(before, key))} of {places.get(key) or recipe} gives way to "
        f"{stronger}={shown(at(values, stronger))}"
        for key, stronger in settled.gave_way.items()
        if key in said and at(before, key) is not None
    ]
    origin = Origin(choices, settled.given, settled.gave_way, (*asked.notes, *notes))
    return Config.of(_with_absolute_paths(values), origin)


def _loss_of_task(asked: "_Asked", config: DictConfig, choices: Mapping[str, str]) -> str | None:
    """Returns the word of the loss that model.task takes by default; None where the chosen one fits, or was typed."""
    of_task = [each for each in asked.settings if each.key == "model.task"]
    typed = [each.value if each.data is ... else each.data for each in of_task]
    name = str(typed[-1] if typed else config.model.task)
    if "loss" in asked.words or name not in task_names() or choices.get("loss") in load_task(name).losses:
        return None
    return load_task(name).losses[0]


@dataclass(frozen=True)
class _Asked:
    """What a command line and the files that it names ask for, each thing by the last to say it."""

    words: dict[str, Override]
    files: tuple[OwnFile, ...]
    settings: list[Override]
    notes: tuple[str, ...]
    is_whole: bool  # False: a file could not be read, so what is missing may stand there

    @property
    def choices(self) -> list[str]:
        return [f"{group}={override.value}" for group, override in self.words.items()]

    def with_tracker_names(self, chosen: Collection[str], words: Collection[str]) -> "_Asked":
        """Returns the same with the tracker's name in its keys."""
        names = list(chosen)
        files = [
            replace(
                file,
                settings=with_tracker_names(file.settings, names, words),
                said=file.said and frozenset(named_tracker(key, names) for key in file.said),
            )
            for file in self.files
        ]
        return replace(self, files=tuple(files), settings=with_tracker_names(self.settings, names, words))

    def rank(self, setting: Override, base: Mapping[str, Any]) -> int:
        """Returns who says a setting: of a run's config.yaml only what was said for that run counts."""
        if not setting.at:
            return COMMAND_LINE
        file = next((each for each in self.files if setting in each.settings), None)
        if file is None or not file.is_frozen:
            return FILE
        is_said = setting.key in file.said if file.said is not None else at(base, setting.key) != setting.data
        return FILE if is_said else 0


def _read(overrides: Iterable[str], groups: Groups, errors: list[str]) -> _Asked:
    """Returns the choices and the settings of a command line and its files; what can be neither goes to `errors`."""
    files: list[OwnFile] = []
    words: list[Override] = []
    settings: list[Override] = []
    num_files = 0
    for text in overrides:
        try:
            override = split(text)
            if override.key == CONFIG or _names_file(override):
                num_files += 1
                files.append(read_own(override.key, (override.value or "").strip("'\""), groups.words))
            elif groups.has(override):
                words.append(replace(override, value=groups.choice(override)))
            else:
                settings.append(long_form(override))
        except (WrongOverride, ConfigError) as error:
            errors += error.messages if isinstance(error, ConfigError) else [str(error)]
    if any(error.startswith(f"{TRACKER}=") for error in errors):  # nobody knows whose keys these are
        settings = [setting for setting in settings if not covers([TRACKER], setting.key)]
    chosen: dict[str, Override] = {}
    kept: list[Override] = []
    notes: list[str] = []
    for file in files:
        for word in file.choices:
            try:
                word = replace(word, value=groups.choice(word))
            except ConfigError as error:
                errors += error.messages
                continue
            _choose(word, chosen, kept, notes)
        kept += file.settings
    for word in words:
        _choose(replace(word, key=word.key.lstrip("/")), chosen, kept, notes)
    if (word := chosen.get("experiment")) and not word.at and any(file.is_frozen for file in files):
        frozen = next(file.name for file in files if file.is_frozen)
        errors.append(f"{word.text}: has no effect with {CONFIG}={frozen}, which sets every key. Try: one of both")
    return _Asked(chosen, tuple(files), [*kept, *settings], tuple(notes), is_whole=len(files) == num_files)


def _choose(word: Override, chosen: dict[str, Override], settings: list[Override], notes: list[str]) -> None:
    """Takes a word; a file's keys of that group that were for another word give way to it, which `notes` says."""
    group, before = word.key, chosen.get(word.key)
    of_group = [each for each in settings if covers([group], each.key)]
    other = before is not None and before.at and before.value != word.value  # not of a word that was typed twice
    if other or (before is None and any(each.key.endswith("._target_") for each in of_group)):
        for each in of_group:
            settings.remove(each)
        lost = ([before.text] if before and before.at else []) + [each.text for each in of_group]
        if lost:
            more = f" and {len(lost) - 1} more of its keys" if len(lost) > 1 else ""
            notes.append(f"{lost[0]}{more} gives way to {group}={word.value}")
    chosen[group] = word


def _names_file(override: Override) -> bool:
    """Returns whether `experiment=` names a file of one's own instead of a word."""
    value = (override.value or "").strip("'\"")
    return override.key.lstrip("/") == "experiment" and ("/" in value or value.endswith((".yaml", ".yml")))


def _profile(settings: list[Override], errors: list[str]) -> list[Override]:
    """Returns the settings in the file that launcher.profile names, as if typed; what is wrong with it to `errors`."""
    named = [setting.value for setting in settings if setting.key == PROFILE and setting.value not in (None, "null")]
    if not named:
        return []
    try:
        return read_profile(str(named[-1]).strip("'\""))
    except ConfigError as error:
        errors += error.messages
        return []


def _with_absolute_paths(values: Values) -> Values:
    """Returns `values` that mean the same from any folder: local paths are absolute, hub ids stay."""
    model, data = dict(values["model"]), dict(values["data"])
    for part, name in ((model, "path"), (model, "tokenizer"), (data, "train"), (data, "eval"), (data, "chat_template")):
        part[name] = [_local(item) for item in part[name]] if isinstance(part[name], list) else _local(part[name])
    if str(data.get("prompt_template")).endswith(".jinja"):
        data["prompt_template"] = _local(data["prompt_template"])
    folders = {name: str(absolute(values[name])) for name in ("runs_dir", "cache_dir")}
    checkpoint = values["checkpoint"] | {"resume": _local(values["checkpoint"]["resume"])}
    loss = values["loss"] | ({"teacher": _local(values["loss"]["teacher"])} if values["loss"].get("teacher") else {})
    clean = dict(values["clean"])
    clean["toxicity"] = clean["toxicity"] | {"words": _local(clean["toxicity"]["words"])}
    clean["leakage"] = clean["leakage"] | {"against": [_local(path) for path in clean["leakage"]["against"]]}
    evaluation = values["eval"] | {"benchmarks_path": _local(values["eval"]["benchmarks_path"])}
    parts = {"model": model, "data": data, "clean": clean, "loss": loss, "checkpoint": checkpoint, "eval": evaluation}
    return values | folders | parts


def _local(value: Any) -> Any:
    """Returns the absolute form of a path that is here, by itself, as a pattern or in an item of data.train."""
    if isinstance(value, dict) and "path" in value:
        return value | {"path": _local(value["path"])}
    if not isinstance(value, str) or value in ("auto", "none", "never"):
        return value
    path = absolute(value)
    return str(path) if path.exists() or ("*" in value and "://" not in value) else value
