"""The nearest choice is what a user meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.config.nearest import edits, nearest, nearest_key

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


@given(WORDS, WORDS)
def test_edits_is_symmetric_and_zero_only_for_the_same_word(a: str, b: str):
    assert edits(a, b) == edits(b, a)
    assert (edits(a, b) == 0) == (a == b)


def test_two_swapped_letters_are_one_edit():
    assert edits("fdsp", "fsdp") == 1
