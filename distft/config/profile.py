"""A cluster profile: what a site's jobs always need, as YAML of launcher keys; the command line comes on top.

Trap: to YAML 1.1 the time limit 12:00:00 is the number 43200, which SLURM would take for minutes.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import yaml

from distft.config.overrides import Override, WrongOverride, quoted
from distft.config.values import shown
from distft.paths import absolute

KEY = "launcher.profile"
_INT = "tag:yaml.org,2002:int"


class _Loader(yaml.SafeLoader):
    """YAML whose whole numbers are digits without a leading zero, as in YAML 1.2."""

    yaml_implicit_resolvers: ClassVar = {
        letter: [each for each in resolvers if each[0] != _INT]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(_INT, re.compile(r"[-+]?(0|[1-9]\d*)$"), list("-+0123456789"))


def of_profile(settings: Iterable[Override]) -> list[Override]:
    """Returns the settings in the file that launcher.profile names, as if typed; WrongOverride when it holds others."""
    named = [setting.value for setting in settings if setting.key == KEY and setting.value not in (None, "null")]
    if not named:
        return []
    file = absolute(str(named[-1]).strip("'\""))
    try:
        values = yaml.load(file.read_text(), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise WrongOverride(f"{KEY}={file}: cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise WrongOverride(f"{KEY}={file}: is no mapping of launcher keys. Try: a line such as `partition: gpu`")
    return list(_settings(values, str(file)))


def _settings(values: dict[str, Any], file: str) -> Iterator[Override]:
    for name, value in values.items():
        key = f"launcher.{name}"
        if key == KEY:
            raise WrongOverride(f"{KEY}={file}: names another profile, which has no effect. Try: its keys here")
        yield Override(f"{file}: {key}={shown(value)}", "", key, _hydra(value))


def _hydra(value: Any) -> str:
    """Returns a plain value in Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(map(_hydra, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_hydra(inner)}" for key, inner in value.items()) + "}"
    return quoted(value) if isinstance(value, str) else shown(value)
