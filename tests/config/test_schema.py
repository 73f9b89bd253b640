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
        (
            Key("k", (int, str), "", at_least=1, pattern=r"\d+-\d+", example="2-4"),
            "a whole number of at least 1 or 2-4",
        ),
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


def test_text_must_match_its_pattern_as_a_whole():
    key = Key("k", (int, str), "", at_least=1, pattern=r"\d+-\d+", example="2-4")
    assert key.fits("2-4") and key.fits(3)
    assert not any(key.fits(value) for value in ("2-4-6", "2-", "x2-4", "2-4\n", "", 0))


def test_every_pattern_takes_its_own_example():
    with_pattern = [key for key in KEYS if key.pattern]
    assert with_pattern
    for key in with_pattern:
        assert key.fits(key.example), key.path


def test_no_key_stands_twice():
    assert len({key.path for key in KEYS}) == len(KEYS)
