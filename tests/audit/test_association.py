"""Planted associations are found, shuffled ones are not; what a filter drops is measured by group."""

import random
from collections.abc import Iterator

import pytest

from distft.audit.association import FEWEST, associations
from distft.audit.dataset import Dropped, Looking, audit_rows
from distft.audit.measures import Measure
from distft.audit.mentions import Counts
from distft.audit.terms import Terms, load_terms
from distft.data.cleaning.view import Text, View

NOTHING = Looking(None, None, None)
TERMS = load_terms()
JOBS = ("doctor", "nurse", "pilot", "teacher", "lawyer", "chef", "farmer", "singer")


def rows(seed: int, skew: float, count: int = 400) -> Iterator[View]:
    """Yields rows about JOBS; the first job is a man's with probability `skew`, the others' with one half."""
    drawn = random.Random(seed)
    for line in range(1, count + 1):
        job = JOBS[line % len(JOBS)]
        he = drawn.random() < (skew if job == JOBS[0] else 0.5)
        text = f"The {job} in room {line} said that {'he' if he else 'she'} was tired and went home."
        yield View("rows.jsonl", line, (Text("text", text, True),))


def found_in(views: Iterator[View], terms: Terms = TERMS) -> list[Measure]:
    counts = Counts(terms)
    for view in views:
        counts.add(view)
    return associations(counts.whole())


def test_a_planted_skew_is_found() -> None:
    found = [each for each in found_in(rows(0, 0.8, 800)) if each.flag and each.where == "all"]
    assert {each.group for each in found} == {"male with doctor", "female with doctor"}
    male = next(each for each in found if each.group.startswith("male"))
    assert male.p is not None and male.p < 0.01 and male.low is not None and male.low > 0
    assert male.base is not None and male.base > 0 and "one of" in male.note


@pytest.mark.slow
def test_shuffled_rows_raise_few_false_alarms() -> None:
    alarms = sum(any(each.flag for each in found_in(rows(seed, 0.5))) for seed in range(200))
    assert alarms <= 0.05 * 200


def test_rare_terms_are_not_tested() -> None:
    views = list(rows(1, 1.0, (FEWEST - 1) * len(JOBS)))
    assert found_in(iter(views)) == []


def test_a_repeated_term_counts_once_for_its_row() -> None:
    text = "The doctor said he was a doctor, and he is a doctor who he was."
    counts = Counts(TERMS)
    counts.add(View("a", 1, (Text("user", text, False), Text("assistant", text, True))))
    whole = counts.whole()
    assert set(whole.cells) == {"all", "role user", "role assistant"}
    cell = whole.cells["all"]
    assert max(cell.together.values()) == 1 and sum(cell.mentions.values()) == 6 and cell.rows == 1


def test_counts_without_lost_rows_are_those_of_the_others() -> None:
    views = list(rows(2, 0.7, 60))
    every, lost, kept = Counts(TERMS), Counts(TERMS), Counts(TERMS)
    for i, view in enumerate(views):
        every.add(view)
        (lost if i % 3 else kept).add(view)
    assert every.without(lost).whole().cells == kept.whole().cells


def test_a_filter_that_drops_a_group_is_flagged() -> None:
    views = list(rows(3, 0.5, 600))
    hers = {(view.source, view.line): "quality" for view in views if " she " in view.texts[0].text and view.line % 2}
    fair = {("rows.jsonl", line): "length" for line in range(2, 600, 6)}
    found = audit_rows(iter(views), TERMS, NOTHING, Dropped(fair | hers)).measures(is_cleaned=True)
    filters = {(each.measure, each.group): each for each in found if each.measure.startswith("filter:")}
    flagged = {key for key, each in filters.items() if each.flag}
    assert flagged == {("filter:quality", "female"), ("filter:quality", "male")}
    female = filters["filter:quality", "female"]
    assert female.tuned is not None and female.base is not None and female.tuned < female.base
    assert female.high is not None and female.high < 0 and "0.0% of the others" in female.note


def test_the_parts_of_the_data_are_counted_separately() -> None:
    views = [View(f"{name}.jsonl", 1, (Text("user", "she", False), Text("assistant", "he", True))) for name in "ab"]
    found = audit_rows(iter(views), TERMS, NOTHING, Dropped()).measures(is_cleaned=False)
    seen = {(each.where, each.group): each.base for each in found if each.measure == "mentions_per_million"}
    assert seen["role user", "female"] == 1e6 and seen["role assistant", "male"] == 1e6
    assert seen["source a.jsonl", "female"] == 5e5 and seen["all", "male"] == 5e5
    assert ("role user", "male") not in seen and seen["all", "nonbinary"] == 0


def test_dropped_rows_of_a_moved_file_are_found() -> None:
    dropped = Dropped({("old/a.jsonl", 1): "length", ("old/b.jsonl", 2): "quality"})
    views = [View(source, line, ()) for source, line in (("new/a.jsonl", 1), ("old/b.jsonl", 1), ("new/b.jsonl", 2))]
    assert [dropped.rule(view) for view in views] == ["length", None, "quality"]
    assert Dropped().rule(views[0]) is None
