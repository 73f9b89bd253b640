"""The swap engine against cases checked by hand, and on what it must not touch."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from distft.audit.swaps import load_pairs

CASES = Path(__file__).with_name("swap_cases.txt")
PAIRS = load_pairs()


def cases() -> Iterator[tuple[str, str, str]]:
    """Yields axis, text and the text about the other group."""
    for line in CASES.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") or " => " not in line:
            continue
        axis, rest = re.fullmatch(r"(?:\[(\w+)\] )?(.*)", line).groups()  # pyright: ignore[reportOptionalMemberAccess]
        text, other = (each.replace("\\n", "\n") for each in rest.split(" => "))
        yield axis or "gender", text, other


def test_99_percent_of_the_checked_cases_are_right() -> None:
    found = [(text, PAIRS[axis].swap(text), other) for axis, text, other in cases()]
    wrong = [each for each in found if each[1] != each[2]]
    assert len(found) >= 300 and len(wrong) <= 0.01 * len(found), wrong


def test_99_percent_of_the_cases_swap_back() -> None:
    found = [(text, PAIRS[axis].swap(PAIRS[axis].swap(text))) for axis, text, _ in cases()]
    assert sum(text != back for text, back in found) <= 0.01 * len(found)


@pytest.mark.parametrize(
    "text",
    [
        "```python\nhe = his[her]\n```",
        "`she`",
        "https://example.org/she/her?him=his",
        "mail his.her@example.org",
        "/home/mary/her.txt",
        "def he(her):\n    return his\n",
        "    she = her\n",
        "for (he = 0; he < her; he++) {\n",
        "{{ her }}\nlog(her)",
        "<|he|>",
        "\\she{his}",
        "her_name = him.age",
        "$her and is_her and 2her",
    ],
)
def test_code_and_addresses_stay(text: str) -> None:
    assert PAIRS["gender"].swap(text) == text


def test_text_around_code_is_swapped() -> None:
    text = "He wrote `he = 1` on https://x.org/he for her.\n```\nhe\n```\nShe read it."
    assert PAIRS["gender"].swap(text) == "She wrote `he = 1` on https://x.org/he for him.\n```\nhe\n```\nHe read it."


@pytest.mark.parametrize("axis", PAIRS)
def test_pairs_are_one_to_one(axis: str) -> None:
    for table in (PAIRS[axis].names, PAIRS[axis].persons):
        assert all(table[table[word]] == word for word in table)
    one_way = [word for word, other in PAIRS[axis].words.items() if PAIRS[axis].words.get(other) != word]
    assert len(one_way) <= 7
