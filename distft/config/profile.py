"""A cluster profile: what a site's jobs always need, as YAML of launcher keys; the command line comes on top."""

from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from distft.config.overrides import Override, WrongOverride, quoted
from distft.config.values import shown
from distft.paths import absolute

KEY = "launcher.profile"


def of_profile(settings: Iterable[Override]) -> list[Override]:
    """Returns the settings in the file that launcher.profile names, as if typed; WrongOverride when it holds others."""
    named = [setting.value for setting in settings if setting.key == KEY and setting.value not in (None, "null")]
    if not named:
        return []
    file = absolute(str(named[-1]).strip("'\""))
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise WrongOverride(f"{KEY}={file}: cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise WrongOverride(f"{KEY}={file}: is no mapping of launcher keys. Nearest: a line such as `partition: gpu`")
    return list(_settings(values, str(file)))


def _settings(values: dict[str, Any], file: str) -> Iterator[Override]:
    for name, value in values.items():
        key = f"launcher.{name}"
        yield Override(f"{file}: {key}={shown(value)}", "", key, _hydra(value))


def _hydra(value: Any) -> str:
    """Returns a plain value in Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(map(_hydra, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_hydra(inner)}" for key, inner in value.items()) + "}"
    return quoted(value) if isinstance(value, str) else shown(value)
