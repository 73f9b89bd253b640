import pytest

from distft.data.choose import choose_format, format_names, load_format
from distft.paths import conf_dir

PAIR, CHAT, TEXT = {"prompt": 1, "completion": 2}, {"messages": []}, {"text": ""}


@pytest.mark.parametrize(("row", "name"), [(PAIR, "prompt_completion"), (CHAT, "messages"), (TEXT, "text")])
def test_auto_tells_the_format_from_the_fields(row: dict, name: str):
    assert choose_format("auto", {}, [row | {"id": 1}]).name == name


def test_a_few_odd_rows_do_not_hide_the_format():
    assert choose_format("auto", {}, [{"x": 1}, TEXT, {"prompt": 1}, TEXT]).name == "text"


def test_auto_knows_renamed_fields():
    assert choose_format("auto", {"prompt": "question"}, [{"question": 1, "completion": 2}]).name == "prompt_completion"


def test_rows_that_fit_two_formats_are_not_guessed_at():
    with pytest.raises(ValueError, match="fit messages and text: name one"):
        choose_format("auto", {}, [CHAT | TEXT])


def test_rows_that_fit_none_are_refused_with_what_they_have_and_what_is_wanted():
    with pytest.raises(ValueError, match=r"the rows have answer, question.*prompt_completion wants prompt, completion"):
        choose_format("auto", {}, [{"question": 1, "answer": 2}])


def test_a_misspelt_format_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean messages"):
        load_format("mesages", {})


def test_a_renamed_field_that_the_format_has_not_is_refused():
    with pytest.raises(ValueError, match=r"data\.fields\.answer: format text has the fields text"):
        load_format("text", {"answer": "a"})


def test_every_format_has_its_word_in_the_data_group():
    for name in format_names():
        assert f"\nformat: {name}" in (conf_dir() / "data" / f"{name}.yaml").read_text()
