"""Names of other trainers lead to keys that are there, or to words of a group."""

import pytest

from distft.config import ConfigError, compose
from distft.config.nearest import OURS


def test_every_key_of_another_trainer_maps_to_ours(right: list[str]):
    with pytest.raises(ConfigError) as reported:
        compose([*right, "schedule=wsd", *(f"{theirs}=1" for theirs in OURS)])
    for theirs, ours in OURS.items():
        [line] = [line for line in reported.value.messages if line.startswith(f"{theirs}=1: ")]
        assert line.endswith((f" {ours}", f" {ours}?")), line


def test_every_suggested_choice_exists(right: list[str]):
    choices = [ours for ours in OURS.values() if "=" in ours]
    assert choices
    for group, _, word in (choice.partition("=") for choice in choices):
        assert compose([*right, f"{group}={word}"]).choices[group] == word
