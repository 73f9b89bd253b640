import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from distft.data.example import Example, Segment
from distft.data.stage import content_id, position


def example(*texts: str) -> Example:
    return Example(
        tuple(Segment(role, text, False) for role, text in zip(("prompt", "completion"), texts, strict=False))
    )


@given(st.text())
def test_spacing_case_and_unicode_form_make_no_other_content(text: str):
    other = unicodedata.normalize("NFD", f"  {text}\n").replace(" ", "  ")
    assert content_id(example(text, "A b")) == content_id(example(other, "a  B"))


def test_what_stands_in_which_role_is_part_of_the_content():
    assert content_id(example("a b", "c")) != content_id(example("a", "b c"))
    assert content_id(example("a", "b")) != content_id(example("b", "a"))


def test_a_fraction_holds_out_about_so_many_and_each_seed_others():
    names = [str(number) for number in range(20_000)]
    held_out = [{name for name in names if position(name, seed) < 0.1} for seed in (0, 1)]
    assert all(1_850 < len(chosen) < 2_150 for chosen in held_out)
    assert len(held_out[0] & held_out[1]) < 300


def test_rows_that_are_added_move_no_other_row():
    assert position("same", 3) == position("same", 3)
