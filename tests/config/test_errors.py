"""The nearest choice is what a user meant; names of other trainers lead to keys and words that exist."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.config import ConfigError, compose
from distft.config.errors import NOT_OURS, OURS, likeness, nearest, nearest_key

WORDS = st.text("abc", max_size=6)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("fdsp", "fsdp"), ("zero", "zero1"), ("zero33", "zero3"), ("FSDP", "fsdp"), ("quantum", None), ("fsxx", None)],
)
def test_only_a_typo_gets_a_suggestion(word: str, meant: str | None):
    assert nearest(word, ["ddp", "fsdp", "hsdp", "zero1", "zero2", "zero3"]) == meant


def test_a_key_of_another_group_is_suggested():
    known = ["train.max_steps", "optimizer.lr", "eval.every_steps", "checkpoint.every_steps"]
    assert nearest_key("lr", known) == "optimizer.lr"
    assert nearest_key("train.lr", known) == "optimizer.lr"
    assert nearest_key("trian.max_steps", known) == "train.max_steps"
    assert nearest_key("eval.every_step", known) == "eval.every_steps"
    assert nearest_key("colour", known) is None
    assert nearest_key("optimizer.max_step", known) == "train.max_steps"
    assert nearest_key("optimizer.stepp", known) is None, "a group that exists, and nothing surely alike elsewhere"


def test_a_key_of_other_choices_comes_after_those_of_the_group():
    known, others = ["optimizer.betas", "train.max_steps"], ["loss.beta", "optimizer.momentum"]
    assert nearest_key("optimizer.beta", known, others) == "optimizer.betas"
    assert nearest_key("train.beta", known, others) == "loss.beta"
    assert nearest_key("optimizer.momentm", known, others) == "optimizer.momentum"


@given(WORDS, WORDS)
def test_only_the_same_word_is_wholly_alike(a: str, b: str):
    assert (likeness(a, b) == 1) == (a == b)
    assert 0 <= likeness(a, b) <= 1


@pytest.mark.slow
def test_every_key_of_another_trainer_maps_to_ours(right: list[str]):
    with pytest.raises(ConfigError) as reported:
        compose([*right, "schedule=wsd", *(f"{theirs}=1" for theirs in OURS)])
    for theirs, ours in OURS.items():
        [line] = [line for line in reported.value.messages if line.startswith(f"{theirs}=1: ")]
        assert line.endswith((f" {ours}", f" {ours}?")), line


def test_keys_without_a_counterpart_are_answered(right: list[str]):
    assert not NOT_OURS.keys() & OURS.keys()
    with pytest.raises(ConfigError) as reported:
        compose([*right, *(f"train.{theirs}=1" for theirs in NOT_OURS)])
    assert reported.value.messages == [
        f"train.{theirs}=1: train.{theirs} is not a key: {answer}" for theirs, answer in NOT_OURS.items()
    ]


@pytest.mark.slow
def test_every_suggested_choice_exists(right: list[str]):
    choices = [ours for ours in OURS.values() if "=" in ours]
    assert choices
    for group, _, word in (choice.partition("=") for choice in choices):
        assert compose([*right, f"{group}={word}"]).choices[group] == word
