"""The config of a run as its difference to the defaults of the words chosen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distft.config.compose import Groups, resolved
from distft.config.errors import ConfigError
from distft.config.key import leaves
from distft.config.schema import Config
from distft.paths import conf_dir

PLACES = ("name", "runs_dir", "cache_dir")  # where files lie, not what is trained
MISSING = "???"  # of a key that the user must give
FOUND = ("model.architecture",)  # read from the model, not set


@dataclass(frozen=True)
class Setting:
    """A key that differs from its default."""

    key: str
    value: Any
    default: Any

    @property
    def source(self) -> str:
        return f"config.yaml#{self.key}"


def settings_of(config: Config) -> list[Setting]:
    """Returns the keys that differ from their defaults, which are those of this version of distft.

    The defaults are those of the chosen words, without the experiment: its settings are shown.
    """
    defaults = defaults_of(config.choices)
    values = {key: value for key, value in leaves(config.values) if not _is_left_out(key)}
    if defaults is None:  # a word is no longer there
        return [Setting(key, value, None) for key, value in values.items() if key in config.given]
    changed = {key: value for key, value in values.items() if value != defaults.get(key)}
    known = {key: None if default == MISSING else default for key, default in defaults.items()}
    return [Setting(key, value, known.get(key)) for key, value in changed.items()]


def _is_left_out(key: str) -> bool:
    return key in PLACES or key.startswith(FOUND) or key.rpartition(".")[2].startswith("_")


def defaults_of(choices: Mapping[str, str]) -> Mapping[str, Any] | None:
    """Returns the keys that the chosen words set; None where there is no such word."""
    groups = Groups(conf_dir())
    words = [f"{group}={word}" for group, word in choices.items() if group in groups.words and group != "experiment"]
    try:
        composed, _ = groups.compose(words)
        return dict(leaves(resolved(composed)))
    except ConfigError:
        return None
