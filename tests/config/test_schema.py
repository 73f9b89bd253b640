"""A key says its rule in words and holds values to it."""

import pytest

from distft.config.schema import KEYS, Key


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        (Key("k", (int, type(None)), "", at_least=1), "a whole number of at least 1, or null"),
        (Key("k", (float,), "", above=0, below=1), "a number above 0 and below 1"),
        (Key("k", (str,), "", choices=("a", "b", "c")), "a, b or c"),
        (Key("k", (str, list), ""), "text or a list"),
    ],
)
def test_the_rule_reads_as_a_sentence(key: Key, rule: str):
    assert key.rule() == rule


def test_true_is_no_number_and_a_whole_number_is_a_number():
    assert not Key("k", (int,), "").fits(True)
    assert not Key("k", (bool,), "").fits(1)
    assert Key("k", (float,), "").fits(1)
    assert not Key("k", (int,), "").fits(1.0)


def test_nan_and_infinity_fit_no_range():
    assert not Key("k", (float,), "", above=0).fits(float("nan"))
    assert not Key("k", (float,), "", above=0, at_most=10).fits(float("inf"))


def test_no_key_stands_twice():
    assert len({key.path for key in KEYS}) == len(KEYS)
