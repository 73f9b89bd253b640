"""The config of a run: composed once, checked whole, then frozen."""

from distft.config.command import command, help_text
from distft.config.compose import compose
from distft.config.errors import ConfigError
from distft.config.freeze import difference, frozen_text, read_config
from distft.config.schema import Config

__all__ = ["Config", "ConfigError", "command", "compose", "difference", "frozen_text", "help_text", "read_config"]
