"""A default stands in conf/ and in the typed model (and of launchers and trackers in code): all are the same.

A new YAML file of a group enrols itself. DIFFERENT lists what one word of a group sets on purpose.
"""

import inspect
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_class

from distft.config.key import MISSING, leaves
from distft.config.schema import BY_PATH, SHORT
from distft.paths import conf_dir

# experiments, and presets of clean, differ from the defaults by their purpose
FILES = [
    file
    for file in sorted(conf_dir().glob("*/*.yaml"))
    if file.parent.name != "experiment" and (file.parent.name != "clean" or file.stem == "none")
]
DIFFERENT = {  # group/word: its keys, because
    "data/alpaca": "format",  # the word names a format
    "data/classification": "format",
    "data/code": "format",
    "data/datatrove": "format",
    "data/kto": "format",
    "data/openai": "format",
    "data/preference": "format",
    "data/regression": "format",
    "data/messages": "format",
    "data/prompt_completion": "format",
    "data/sharegpt": "format",
    "data/text": "format",
    "data/token_classification": "format",
    "data/chatterbot": "max_length",  # its rows are short
    "eval/none": "at_ends",  # the word means no evaluation
    "launcher/openai": "model",  # it has to be typed
    "launcher/slurm": "jobs_at_once max_timeouts",  # a scheduler decides how many run, and requeues
    "loss/distillation": "teacher",  # it has to be typed
    "loss/simpo": "beta",  # of another reward
    "optimizer/adamw": "lr",  # the model has SGD's, as torch has
    "optimizer/lion": "lr",
    "optimizer/radam": "lr",
    "optimizer/sgd": "momentum",
    "schedule/cosine": "final_fraction",  # usual of cosine; 0 of linear and wsd
    "strategy/fsdp": "layout",  # the word names a layout, or a stage of ZeRO
    "strategy/hsdp": "layout",
    "strategy/zero1": "stage",
    "strategy/zero2": "stage",
    "strategy/zero3": "stage",
    "strategy/zero3_offload": "stage offload",
    "sweep/optuna": "trials",  # a grid has none
}


def name_of(file: Path) -> str:
    return f"{file.parent.name}/{file.stem}"


def values_in(file: Path) -> dict[str, Any]:
    values = yaml.safe_load(file.read_text()) or {}
    prefix = "" if file.parent == conf_dir() else f"{file.parent.name}."
    return {SHORT.get(key, key): value for key, value in leaves(values, prefix=prefix)}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_words_defaults_are_those_of_the_model(file: Path):
    different = {f"{file.parent.name}.{key}" for key in DIFFERENT.get(name_of(file), "").split()}
    if file.parent.name == "clean":  # a preset lists what it changes, and nothing else
        different = {key for key in values_in(file) if key in BY_PATH and file.stem != "none"}
    found = {
        key
        for key, value in values_in(file).items()
        if key in BY_PATH and BY_PATH[key].default != MISSING and BY_PATH[key].default != value
    }
    assert found == different


def test_the_defaults_of_a_run_are_those_of_the_model():
    values = values_in(conf_dir() / "config.yaml")
    del values["defaults"]
    assert {key: BY_PATH[key].default for key in values} == values


def test_no_word_is_listed_that_is_not_there():
    assert DIFFERENT.keys() <= {name_of(file) for file in FILES}


CALLED = [file for file in FILES if file.parent.name in ("launcher", "tracker", "sweep")]


@pytest.mark.parametrize("file", CALLED, ids=name_of)
def test_a_constructors_defaults_are_those_of_its_word(file: Path):
    values = yaml.safe_load(file.read_text()) or {}
    for section in [values] if "_target_" in values else values.values():
        called = get_class(section["_target_"])
        given = {each.name: each for each in inspect.signature(called).parameters.values()}
        kind = next(iter(given.values())).annotation if given else None
        own = {each.name: each for each in fields(kind)} if is_dataclass(kind) else given
        none = (inspect.Parameter.empty, NO_DEFAULT)
        defaults = {name: each.default for name, each in own.items() if each.default not in none}
        for name in defaults.keys() & section.keys():
            default = [] if defaults[name] == () else defaults[name]
            if file.stem == "slurm" and name == "flags":
                default = {}  # of a factory
            assert section[name] == default, name
