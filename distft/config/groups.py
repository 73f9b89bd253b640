"""The groups of conf/ and the word chosen in each: the part of a command line that Hydra composes."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distft.config.errors import ConfigError
from distft.config.nearest import did_you_mean, nearest
from distft.config.overrides import Override
from distft.config.schema import SHORT
from distft.config.settings import with_long_forms
from distft.config.tree import leaves


class Groups:
    """The folders of a config folder, each with its words."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = sorted(path for path in folder.iterdir() if path.is_dir())
        self.words = {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in found}

    def has(self, override: Override) -> bool:
        return override.key.lstrip("/") in self.words

    def choice(self, override: Override) -> str:
        """Returns `group=word` of an override; ConfigError when the group has no such word."""
        group = override.key.lstrip("/")
        words = self.words[group]
        can_be_null = group == "experiment"
        if override.prefix != "~" and override.value in (*words, *(["null"] if can_be_null else [])):
            return f"{group}={override.value}"
        meant = nearest(override.value or "none", words)
        raise ConfigError([f"{override.text}: {group} is one of {', '.join(words)}.{did_you_mean(meant)}"])

    def target_of(self, group: str, word: str) -> str | None:
        """Returns the `_target_` that a word's own YAML names."""
        return (yaml.safe_load((self.folder / group / f"{word}.yaml").read_text()) or {}).get("_target_")

    def compose(self, choices: Iterable[str]) -> tuple[DictConfig, dict[str, str]]:
        """Returns the tree of these choices, still with its interpolations, and the word of every group."""
        state = tuple((str(file), file.stat().st_mtime_ns) for file in sorted(self.folder.rglob("*.yaml")))
        config, words = _composed(self.folder, tuple(choices), state)
        chosen = {name: word for name, word in words.items() if name in self.words and word}
        return deepcopy(config), chosen

    def keys_of_experiment(self, word: str | None) -> set[str]:
        """Returns the keys that the chosen experiment sets: they count as given by the user."""
        if word is None:
            return set()
        tree = yaml.safe_load((self.folder / "experiment" / f"{word}.yaml").read_text()) or {}
        return {SHORT.get(path, path) for path, _ in leaves(tree) if path != "defaults"}


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
    with_long_forms(config, yaml.safe_load((folder / "config.yaml").read_text()))
    return config, words


def resolved(config: DictConfig) -> dict[str, Any]:
    """Returns plain values, interpolations resolved; ConfigError for one that leads nowhere."""
    try:
        values = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([_first_line(error)]) from error
    assert isinstance(values, Mapping)
    return {str(name): value for name, value in values.items()}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
