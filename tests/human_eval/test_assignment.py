"""Pages are drawn from the seed: even loads, different raters per item, balanced order, repeats and checks."""

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distft.human_eval.assignment import Design, assign, balanced, slots_of
from distft.human_eval.study import Item, Turn

SIDES = {f"i{n}": (n % 2, 1 - n % 2) for n in range(200)}  # the drawn order of the answers in the items
CHECKS = [Item(f"c{n}", (Turn("user", "check"),), ("x", "y"), "b") for n in range(4)]
PRACTICE = [Item(f"p{n}", (Turn("user", "practice"),), ("x", "y"), "a") for n in range(2)]


@settings(deadline=None, max_examples=60)
@given(items=st.integers(1, 60), raters=st.integers(1, 12), seed=st.integers(0, 99), data=st.data())
def test_each_item_goes_to_overlap_raters_evenly(items: int, raters: int, seed: int, data: st.DataObject):
    overlap = data.draw(st.integers(1, raters))
    names = [f"i{n}" for n in range(items)]
    loads = assign(names, raters, overlap, random.Random(seed))
    assert Counter(item for load in loads for item in load) == dict.fromkeys(names, overlap)
    assert all(len(load) == len(set(load)) for load in loads)
    assert max(map(len, loads)) - min(map(len, loads)) <= 1


@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, 99), seed=st.integers(0, 99))
def test_each_system_is_first_in_half_of_the_items(count: int, seed: int):
    names = random.Random(seed).sample(sorted(SIDES), count)
    swapped = balanced(names, SIDES, random.Random(seed))
    first = [SIDES[item][swap] for item, swap in zip(names, swapped, strict=True)]
    assert abs(first.count(0) - first.count(1)) <= 1


def test_three_systems_are_balanced_within_each_pair():
    sides = {f"{a}{b}{n}": (a, b) for a, b in ((0, 1), (2, 0), (1, 2)) for n in range(11)}
    swapped = balanced(list(sides), sides, random.Random(3))
    first = Counter()
    for (item, pair), swap in zip(sides.items(), swapped, strict=True):
        first[tuple(sorted(pair)), pair[swap]] += 1
        assert item
    assert set(first.values()) == {5, 6}


def pages(seed: int = 1, count: int = 40, **changes: float):
    design = Design(**{"raters": 1, "overlap": 1, "repeat": 0.2, "attention": 0.1} | changes)  # pyright: ignore
    return slots_of(sorted(SIDES)[:count], SIDES, CHECKS, PRACTICE, design, random.Random(seed))


def test_the_same_seed_draws_the_same_pages():
    assert pages(1) == pages(1) != pages(2)


def test_repeats_come_later_and_half_of_them_swapped():
    slots = pages()
    kinds = Counter(slot.kind for slot in slots)
    assert kinds == {"practice": 2, "main": 40, "repeat": 4, "swap": 4, "attention": 4}
    assert [slot.kind for slot in slots[:2]] == ["practice"] * 2
    first = {slot.item: (place, slot.swapped) for place, slot in enumerate(slots) if slot.kind == "main"}
    for place, slot in enumerate(slots):
        if slot.kind in ("repeat", "swap"):
            assert place > first[slot.item][0] and (slot.swapped != first[slot.item][1]) == (slot.kind == "swap")


def test_attention_checks_are_spread_with_either_answer_right():
    slots = pages()
    places = [place for place, slot in enumerate(slots) if slot.kind == "attention"]
    assert all(later - earlier >= 8 for earlier, later in pairwise(places))
    expected = {check.id: check.expected for check in CHECKS}
    sides = [slot.swapped ^ (expected[slot.item] == "b") for slot in slots if slot.kind == "attention"]
    assert sides.count(True) == sides.count(False)


@pytest.mark.parametrize("count", [1, 2])
def test_a_tiny_study_has_no_repeats_and_no_checks(count: int):
    assert [slot.kind for slot in pages(count=count)] == ["practice"] * 2 + ["main"] * count
