import shlex
from typing import Any

import pytest

from distft.config import compose
from distft.data.example import BadField
from distft.data.formats import (
    Format,
    UnreadFields,
    choose_formats,
    fields_override,
    form_of,
    format_names,
    ignore_override,
    load_format,
)
from distft.paths import conf_dir

PAIR, CHAT, TEXT = {"prompt": "1", "completion": "2"}, {"messages": []}, {"text": ""}
ALPACA, SHAREGPT = {"instruction": "1", "output": "2"}, {"conversations": []}
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
ODD_NAMES = ["id", "source url", "a, b", "it's", "null", "true", "1", "é", "", "x=y", "[z]", "back\\slash"]


def chosen(renamed: dict[str, str], rows: list[dict[str, Any]]) -> Format:
    return form_of(choose_formats("auto", renamed, rows), rows[0])


def unread(form: Format, *rows: dict[str, Any]) -> str:
    """What is said of the fields that `form` does not read."""
    found = UnreadFields()
    for number, row in enumerate(rows, 1):
        found.add(form.take(row)[1], f"a.jsonl:{number}", form)
    with pytest.raises(ValueError, match="fields that no format reads") as error:
        found.refuse()
    return str(error.value)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (PAIR, "prompt_completion"),
        (CHAT, "messages"),
        (TEXT, "text"),
        (ALPACA, "alpaca"),
        (SHAREGPT, "sharegpt"),
    ],
)
def test_auto_tells_the_format_from_the_fields(row: dict, name: str):
    assert chosen({}, [row | {"id": 1}]).name == name


def test_a_few_odd_rows_do_not_hide_the_format():
    rows = [{"x": 1}, TEXT, {"prompt": 1}, TEXT]
    assert [form.name for form in choose_formats("auto", {}, rows)] == ["text"]


def test_each_row_has_its_own_format_and_null_is_absent():
    pair, chat = PAIR | {"messages": None}, {"messages": TURNS, "prompt": None, "completion": None}
    forms = choose_formats("auto", {}, [pair, chat, pair, chat])
    assert [form_of(forms, row).name for row in (pair, chat)] == ["prompt_completion", "messages"]
    assert [form_of(forms, row).take(row)[1] for row in (pair, chat)] == [[], []]


def test_auto_knows_renamed_fields():
    assert chosen({"prompt": "question"}, [{"question": 1, "completion": 2}]).name == "prompt_completion"


def test_rows_that_fit_two_formats_are_not_guessed_at():
    with pytest.raises(
        ValueError, match=r"fit messages and text: name one. Try: data.format=messages, or data.format="
    ):
        choose_formats("auto", {}, [CHAT | TEXT])
    assert [form.name for form in choose_formats("auto", {}, [CHAT | TEXT], ["text"])] == ["messages"]


def test_rows_that_fit_none_are_refused_with_what_to_type():
    with pytest.raises(
        ValueError, match=r"the rows have answer, question.*prompt_completion requires prompt, completion"
    ) as error:
        choose_formats("auto", {}, [{"question": 1, "answer": 2}])
    (offered,) = shlex.split(str(error.value).partition("Try: ")[2])
    fields = compose(["data.train=some/rows", offered]).values["data"]["fields"]
    assert fields == {"prompt": "question", "completion": "answer"}
    with pytest.raises(ValueError, match="Try: data.fields, with your names"):
        choose_formats("auto", {}, [{"foo": 1, "bar": 2}])


def test_a_misspelt_format_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean messages"):
        load_format("mesages", {})


def test_a_renamed_field_that_the_format_has_not_is_refused():
    with pytest.raises(ValueError, match=r"data\.fields\.answer: format text has the fields text"):
        load_format("text", {"answer": "a"})
    with pytest.raises(ValueError, match="two fields have the same name"):
        load_format("alpaca", {"instruction": "a", "output": "a"})
    with pytest.raises(ValueError, match=r"data\.ignore_fields names text, which format text requires"):
        load_format("text", {}, ["text"])


def test_every_format_has_its_word_in_the_data_group():
    for name in format_names():
        assert f"\nformat: {name}" in (conf_dir() / "data" / f"{name}.yaml").read_text()


def test_all_fields_that_nothing_reads_are_named_with_the_first_row_and_what_to_type():
    turns = [TURNS[0] | {"name": "Ann"}, TURNS[1] | {"content": [{"type": "text", "text": "a", "cache": 1}]}]
    said = unread(load_format("messages", {}), {"messages": TURNS}, {"messages": turns, "sytem": "x", "id": 0})
    for name in ("messages[].name (a.jsonl:2", "messages[].content[].cache (a.jsonl:2", "id (a.jsonl:2"):
        assert name in said
    assert "sytem (a.jsonl:2; did you mean system?)" in said
    assert "Try: 'data.ignore_fields=[name,cache,sytem,id]'" in said


def test_what_is_ignored_or_holds_nothing_is_no_unread_field():
    form = load_format("prompt_completion", {}, ["id", "system"])
    example, rest = form.take(PAIR | {"id": 7, "system": "s", "tools": [], "note": "", "meta": {}, "extra": None})
    assert rest == []
    assert [part.role for part in example.segments] == ["prompt", "completion"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": TURNS, "tools": [1]}, "tools (a.jsonl:1; tool calls cannot be rendered yet)"),
        ({"messages": [TURNS[0], TURNS[1] | {"tool_calls": [1]}]}, "messages[].tool_calls (a.jsonl:1; tool calls"),
        (
            {"messages": [TURNS[0], TURNS[1] | {"reasoning_content": "x"}]},
            "messages[].reasoning_content (a.jsonl:1; reas",
        ),
        ({"messages": [TURNS[0], TURNS[1] | {"thinking": "x"}]}, "messages[].thinking (a.jsonl:1; reasoning cannot"),
        ({"messages": TURNS, "images": ["x.png"]}, "images (a.jsonl:1; only text can be trained on)"),
    ],
)
def test_what_cannot_be_rendered_yet_is_refused_by_name(row: dict, said: str):
    assert said in unread(load_format("messages", {}), row)


def test_a_field_that_is_renamed_away_is_read_once():
    form = load_format("prompt_completion", {"prompt": "input", "completion": "output"})
    (prompt, _) = form({"input": "question", "output": "answer"}).segments
    assert prompt.text == "question"


def test_a_missing_field_offers_the_one_it_may_be():
    with pytest.raises(BadField, match=r"completion: is missing. Did you mean completions\? Try: 'data.fields={comp"):
        load_format("prompt_completion", {})({"prompt": "p", "completions": "c"})


def test_what_is_offered_to_type_is_taken():
    offered = [*shlex.split(ignore_override(ODD_NAMES)), *shlex.split(fields_override({"prompt": "it's, so"}))]
    data = compose(["data.train=some/rows", *offered]).values["data"]
    assert data["ignore_fields"] == ODD_NAMES
    assert data["fields"] == {"prompt": "it's, so"}
