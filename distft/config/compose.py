"""From a command line to a whole, checked config; every error of it at once.

Hydra reports the first unknown key alone, so it composes the chosen words, and the settings are looked at and put
into its tree here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distft.config.errors import ConfigError
from distft.config.files import missing_files
from distft.config.groups import Groups, resolved
from distft.config.known import known_keys
from distft.config.model_folder import wrong_models
from distft.config.overrides import Override, WrongOverride, split
from distft.config.packing import with_packing
from distft.config.profile import of_profile
from distft.config.rules import broken_rules
from distft.config.rules.contract import Facts
from distft.config.settings import apply_setting, with_targets
from distft.config.values import wrong_values
from distft.paths import absolute, conf_dir


@dataclass(frozen=True)
class Config:
    """A whole config: plain values, every interpolation resolved, and the word chosen in each group."""

    values: dict[str, Any]
    choices: dict[str, str]
    given: frozenset[str] = frozenset()  # keys that the command line or its experiment sets; all others are defaults


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
    chosen, typed = _read(overrides, groups, errors)
    settings = [*_profile(typed, errors), *typed]
    config, choices = groups.compose(chosen)
    base = resolved(config)
    known = known_keys(with_targets(base, settings))
    errors += known.errors
    for setting in settings:
        try:
            apply_setting(setting, config, known, groups.words)
        except WrongOverride as error:
            errors.append(str(error))
    of_experiment = groups.keys_of_experiment(choices.get("experiment"))
    values, given = with_packing(resolved(config), {setting.key for setting in settings}, of_experiment)
    wrong = wrong_values(values, known, base, given)
    own = {} if wrong else kept(values)
    for key, value in own.items():
        group, _, name = key.partition(".")
        values[group][name] = value
    wrong |= {key: error for key, error in missing_files(values) if key not in wrong and key not in own}
    errors += [*wrong.values(), *wrong_models(values, wrong)]
    errors += broken_rules(Facts(values, choices, given, sweep), wrong)
    if errors:
        raise ConfigError(errors)
    return Config(_with_absolute_paths(values), choices, given)


def _read(overrides: Iterable[str], groups: Groups, errors: list[str]) -> tuple[list[str], list[Override]]:
    """Returns the choices and the settings of a command line; what can be neither goes to `errors`."""
    chosen, settings = [], []
    for text in overrides:
        try:
            override = split(text)
            if groups.has(override):
                chosen.append(groups.choice(override))
            else:
                settings.append(override)
        except (WrongOverride, ConfigError) as error:
            errors.append(str(error))
    return chosen, settings


def _profile(settings: list[Override], errors: list[str]) -> list[Override]:
    try:
        return of_profile(settings)
    except WrongOverride as error:
        errors.append(str(error))
        return []


def _with_absolute_paths(values: dict[str, Any]) -> dict[str, Any]:
    """Returns `values` that mean the same from any folder: local paths are absolute, hub ids stay."""
    model, data = dict(values["model"]), dict(values["data"])
    for part, name in ((model, "path"), (model, "tokenizer"), (data, "train"), (data, "eval"), (data, "chat_template")):
        part[name] = [_local(path) for path in part[name]] if isinstance(part[name], list) else _local(part[name])
    folders = {name: str(absolute(values[name])) for name in ("runs_dir", "cache_dir")}
    checkpoint = values["checkpoint"] | {"resume": _local(values["checkpoint"]["resume"])}
    return values | folders | {"model": model, "data": data, "checkpoint": checkpoint}


def _local(value: Any) -> Any:
    """Returns the absolute form of a path that is here, by itself or as a pattern."""
    if not isinstance(value, str) or value in ("auto", "none", "never"):
        return value
    path = absolute(value)
    return str(path) if path.exists() or "*" in path.name else value
