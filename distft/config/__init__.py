"""The config of a run: composed once, checked whole, then frozen.

Keys: `schema`, `data`, `cleaning` and `parts` are the typed sections, made of what `key` defines.
From the command line to the frozen file: `compose` reads `overrides` and `own_yaml`; `check`, `targets`, `model_folder`
and `rules` refuse what is wrong, as `errors`; `freeze` writes config.yaml and compares it with a later config.
Around it: `command` and `help` are what commands share, `reference` writes docs/config.md.
"""

from distft.config.command import command
from distft.config.compose import compose
from distft.config.errors import ConfigError
from distft.config.freeze import difference, frozen_text, read_config
from distft.config.help import help_text
from distft.config.schema import Config

__all__ = ["Config", "ConfigError", "command", "compose", "difference", "frozen_text", "help_text", "read_config"]
