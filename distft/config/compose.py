"""From a command line to a whole, checked config; every error of it at once.

Hydra reports the first unknown key alone, so the line is looked at before Hydra composes, and the result after.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distft.config.errors import ConfigError
from distft.config.files import missing_files
from distft.config.known import Known, known_keys
from distft.config.model_folder import wrong_models
from distft.config.nearest import did_you_mean, nearest, nearest_key
from distft.config.overrides import Override, WrongOverride, hydra_value, split
from distft.config.rules import broken_rules
from distft.config.rules.contract import Facts
from distft.config.schema import NULL
from distft.config.tree import at, leaves
from distft.config.values import wrong_values
from distft.paths import absolute, conf_dir


@dataclass(frozen=True)
class Config:
    """A whole config: plain values, every interpolation resolved, and the word chosen in each group."""

    values: dict[str, Any]
    choices: dict[str, str]


def compose(overrides: Iterable[str], *, config_dir: Path | None = None, to_run: bool = True) -> Config:
    """Returns the config that `overrides` ask for; ConfigError with all that is wrong with it.

    to_run: also refuses what can be planned here but not launched.
    """
    composer = _Composer(absolute(config_dir or conf_dir()))
    settings = composer.choose(overrides)
    base, choices = composer.compose([])
    known = known_keys(_with_targets(base, settings))
    composer.errors += known.errors
    lines = [line for setting in settings for line in composer.hydra_lines(setting, known, base)]
    values, choices = composer.compose(lines)
    wrong = wrong_values(values, known, base)
    wrong |= {key: error for key, error in missing_files(values) if key not in wrong}
    given = {setting.key for setting in settings} | composer.keys_of_experiment(choices.get("experiment"))
    composer.errors += wrong.values()
    composer.errors += wrong_models(values, wrong)
    composer.errors += broken_rules(Facts(values, choices, frozenset(given)), wrong, to_run=to_run)
    if composer.errors:
        raise ConfigError(composer.errors)
    return Config(_with_absolute_paths(values), choices)


class _Composer:
    """One command line on its way through Hydra, with the errors found so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.groups = {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in _folders(folder)}
        self.errors: list[str] = []
        self.choice_lines: list[str] = []

    def choose(self, overrides: Iterable[str]) -> list[Override]:
        """Takes the choices of groups out of a command line; returns the settings of keys that are left."""
        settings = []
        for text in overrides:
            try:
                override = split(text)
            except WrongOverride as error:
                self.errors.append(str(error))
                continue
            if override.key.lstrip("/") in self.groups:
                self._take_choice(override)
            else:
                settings.append(override)
        return settings

    def _take_choice(self, override: Override) -> None:
        group, choices = override.key.lstrip("/"), self.groups[override.key.lstrip("/")]
        optional = ["null"] if group == "experiment" else []
        if override.value is not None and override.value in [*choices, *optional] and override.prefix != "~":
            self.choice_lines.append(f"{group}={override.value}")
            return
        meant = nearest(override.value or "none", choices)
        self.errors.append(f"{override.text}: {group} is one of {', '.join(choices)}.{did_you_mean(meant)}")

    def compose(self, lines: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
        """Returns the resolved tree and the choices; raises ConfigError when Hydra refuses."""
        try:
            with initialize_config_dir(str(self.folder), version_base="1.3"):
                config = hydra_compose("config", [*self.choice_lines, *lines], return_hydra_config=True)
            chosen = {name: word for name, word in config.hydra.runtime.choices.items() if name in self.groups and word}
            OmegaConf.set_struct(config, False)
            config.pop("hydra")
            values = OmegaConf.to_container(config, resolve=True)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
            first = str(error).strip().splitlines()[0]
            raise ConfigError([*self.errors, f"{first} (in {self.folder} or: {' '.join(lines)})"]) from error
        assert isinstance(values, dict)
        return {str(name): value for name, value in values.items()}, chosen

    def hydra_lines(self, setting: Override, known: Known, base: Mapping[str, Any]) -> Iterator[str]:
        """Yields a setting in Hydra's words, or nothing and notes its error."""
        if refusal := self._refusal(setting, known):
            self.errors.append(refusal)
            return
        key = known.key(setting.key)
        text = key is not None and str in key.types and set(key.types) <= {str, list, NULL}
        present = at(base, setting.key, ...) is not ...
        if setting.prefix == "~":
            yield f"~{setting.key}"
            return
        try:
            yield f"{'' if present else '+'}{setting.key}={hydra_value(setting.key, setting.value or '', text=text)}"
        except WrongOverride as error:
            self.errors.append(str(error))

    def _refusal(self, setting: Override, known: Known) -> str | None:
        group = setting.key.partition("/")[0].partition("@")[0]
        if group in ("hydra", *self.groups) and setting.key != group and "." not in setting.key:
            return f"{setting.text}: has no effect here.{did_you_mean(nearest(group, self.groups))}"
        if setting.key.partition(".")[0] == "hydra":
            return f"{setting.text}: Hydra's own settings have no effect here. Nearest: runs_dir, name or launcher"
        if refusal := known.refusal(setting.key):
            if "." not in setting.key and nearest_key(setting.key, list(known.keys)) is None:
                refusal += did_you_mean(nearest(setting.key, self.groups))
            return f"{setting.text}: {refusal}"
        if setting.prefix == "~" and setting.key in known.required:
            return f"{setting.text}: {setting.key} cannot be left out. Nearest: {setting.key}=..."
        return None

    def keys_of_experiment(self, name: str | None) -> set[str]:
        """Returns the keys that the chosen experiment sets: they count as given by the user."""
        if name is None:
            return set()
        tree = yaml.safe_load((self.folder / "experiment" / f"{name}.yaml").read_text()) or {}
        return {path for path, _ in leaves(tree) if path != "defaults"}


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _with_targets(base: Mapping[str, Any], settings: Iterable[Override]) -> dict[str, Any]:
    """Returns `base` with what the user sets of `_target_` and trust, which decide what else may be set."""
    tree = {name: dict(value) if isinstance(value, Mapping) else value for name, value in base.items()}
    for setting in settings:
        group, _, name = setting.key.partition(".")
        if name == "_target_" and isinstance(tree.get(group), dict):
            tree[group][name] = (setting.value or "").strip("'\"")
        if setting.key == "trust":
            tree["trust"] = [word.strip(" '\"") for word in (setting.value or "").strip("[]").split(",")]
    return tree


def _with_absolute_paths(values: dict[str, Any]) -> dict[str, Any]:
    """Returns `values` that mean the same from any folder: local paths are absolute, hub ids stay."""
    model, data = dict(values["model"]), dict(values["data"])
    for part, name in ((model, "path"), (model, "tokenizer"), (data, "train"), (data, "eval"), (data, "chat_template")):
        part[name] = [_local(path) for path in part[name]] if isinstance(part[name], list) else _local(part[name])
    folders = {name: str(absolute(values[name])) for name in ("runs_dir", "cache_dir")}
    checkpoint = values["checkpoint"] | {"resume": _local(values["checkpoint"]["resume"])}
    return values | folders | {"model": model, "data": data, "checkpoint": checkpoint}


def _local(value: Any) -> Any:
    return str(absolute(value)) if isinstance(value, str) and absolute(value).exists() else value
