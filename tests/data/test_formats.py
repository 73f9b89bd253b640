"""Each format is detected from the fields of a row, and no field is dropped silently."""

import json
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
    openai,
)
from distft.paths import conf_dir

PAIR, CHAT, TEXT = {"prompt": "1", "completion": "2"}, {"messages": []}, {"text": ""}
ALPACA, SHAREGPT = {"instruction": "1", "output": "2"}, {"conversations": []}
PAIR_OF_ANSWERS = {"prompt": "p", "chosen": "good", "rejected": "bad"}
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
        (PAIR | {"label": True}, "kto"),
        ({"chosen": "a", "rejected": "b"}, "preference"),
        (PAIR_OF_ANSWERS, "preference"),
        (TEXT | {"label": "spam"}, "classification"),
        (TEXT | {"label": 1}, "classification"),
        (TEXT | {"label": 0.5}, "regression"),
        (TEXT | {"label": None}, "text"),
        ({"content": "x = 1", "language": "Python"}, "code"),
        (TEXT | {"metadata": {"license": "MIT"}}, "datatrove"),
        (TEXT | {"metadata": "of another tool"}, "text"),
    ],
)
def test_auto_detects_the_format_from_the_fields(row: dict, name: str):
    assert chosen({}, [row | {"id": 1}]).name == name


def test_a_few_other_rows_do_not_hide_the_format():
    rows = [{"x": 1}, TEXT, {"prompt": 1}, TEXT]
    assert [form.name for form in choose_formats("auto", {}, rows)] == ["text"]


def test_each_row_has_its_own_format_and_null_is_absent():
    pair, chat = PAIR | {"messages": None}, {"messages": TURNS, "prompt": None, "completion": None}
    forms = choose_formats("auto", {}, [pair, chat, pair, chat])
    assert [form_of(forms, row).name for row in (pair, chat)] == ["prompt_completion", "messages"]
    assert [form_of(forms, row).take(row)[1] for row in (pair, chat)] == [[], []]


def test_auto_knows_renamed_fields():
    assert chosen({"prompt": "question"}, [{"question": 1, "completion": 2}]).name == "prompt_completion"


def test_rows_that_fit_two_formats_are_refused():
    with pytest.raises(
        ValueError, match=r"fit messages and text: name one. Try: data.format=messages, or data.format="
    ):
        choose_formats("auto", {}, [CHAT | TEXT])
    assert [form.name for form in choose_formats("auto", {}, [CHAT | TEXT], ["text"])] == ["messages"]


def test_rows_that_fit_no_format_are_refused_with_a_fix():
    with pytest.raises(
        ValueError, match=r"the rows have answer, question.*prompt_completion requires prompt, completion"
    ) as error:
        choose_formats("auto", {}, [{"question": 1, "answer": 2}])
    (offered,) = shlex.split(str(error.value).partition("Try: ")[2])
    fields = compose(["data.train=some/rows", offered]).values["data"]["fields"]
    assert fields == {"prompt": "question", "completion": "answer"}
    with pytest.raises(ValueError, match="Try: data.fields, with your names"):
        choose_formats("auto", {}, [{"foo": 1, "bar": 2}])


def test_a_misspelt_format_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match="Did you mean messages"):
        load_format("mesages", {})


def test_a_renamed_field_unknown_to_the_format_is_refused():
    with pytest.raises(ValueError, match=r"data\.fields\.answer: format text has the fields text"):
        load_format("text", {"answer": "a"})
    with pytest.raises(ValueError, match="two fields have the same name"):
        load_format("alpaca", {"instruction": "a", "output": "a"})
    with pytest.raises(ValueError, match=r"data\.ignore_fields names text, which format text requires"):
        load_format("text", {}, ["text"])


def test_every_format_has_a_choice_in_the_data_group():
    for name in format_names():
        assert f"\nformat: {name}" in (conf_dir() / "data" / f"{name}.yaml").read_text()


def test_unread_fields_are_named_with_their_row_and_a_fix():
    turns = [TURNS[0], TURNS[1] | {"content": [{"type": "text", "text": "a", "cache": 1}]}]
    said = unread(load_format("messages", {}), {"messages": TURNS}, {"messages": turns, "sytem": "x", "id": 0})
    for name in ("messages[].content[].cache (a.jsonl:2", "id (a.jsonl:2"):
        assert name in said
    assert "sytem (a.jsonl:2; did you mean system?)" in said
    assert "Try: 'data.ignore_fields=[cache,sytem,id]'" in said


def test_ignored_and_empty_fields_are_not_unread():
    form = load_format("prompt_completion", {}, ["id", "system"])
    example, rest = form.take(PAIR | {"id": 7, "system": "s", "tools": [], "note": "", "meta": {}, "extra": None})
    assert rest == []
    assert [part.role for part in example.segments] == ["prompt", "completion"]


def test_images_are_refused_by_name():
    said = unread(load_format("messages", {}), {"messages": TURNS, "images": ["x.png"]})
    assert "images (a.jsonl:1; only text can be trained on)" in said


def test_a_field_that_is_renamed_away_is_read_once():
    form = load_format("prompt_completion", {"prompt": "input", "completion": "output"})
    (prompt, _) = form({"input": "question", "output": "answer"}).segments
    assert prompt.text == "question"


def test_a_missing_field_gets_a_suggestion():
    with pytest.raises(BadField, match=r"completion: is missing. Did you mean completions\? Try: 'data.fields={comp"):
        load_format("prompt_completion", {})({"prompt": "p", "completions": "c"})


def test_the_suggested_override_is_accepted():
    offered = [*shlex.split(ignore_override(ODD_NAMES)), *shlex.split(fields_override({"prompt": "it's, so"}))]
    data = compose(["data.train=some/rows", *offered]).values["data"]
    assert data["ignore_fields"] == ODD_NAMES
    assert data["fields"] == {"prompt": "it's, so"}


ROW = {"instruction": "Add.", "input": "2, 3", "output": "5"}
RENAMED = load_format("prompt_completion", {"prompt": "instruction", "completion": "output"})


@pytest.mark.parametrize("form", [load_format("alpaca", {}), RENAMED])
def test_the_input_ends_the_prompt(form: Format):
    example, unread = form.take(ROW | {"system": "s"})
    assert [(part.role, part.text, part.train) for part in example.segments] == [
        ("system", "s", False),
        ("prompt", "Add.\n\n2, 3", False),
        ("completion", "5", True),
    ]
    assert unread == []


@pytest.mark.parametrize("nothing", [{"input": ""}, {"input": None}])
def test_an_empty_input_adds_nothing(nothing: dict):
    (prompt, _) = load_format("alpaca", {})(ROW | nothing).segments
    assert prompt.text == "Add."


FORMAT = load_format("messages", {})
MESSAGES_SHAREGPT = load_format("messages", {"messages": "conversations", "role": "from", "content": "value"})


def message(role: str, content: Any = "x", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def call(name: str, arguments: Any, identity: str = "c1") -> dict[str, Any]:
    made = {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}
    return message("assistant", None, tool_calls=[made])


def row(*roles: str) -> dict[str, Any]:
    return {"messages": [message(role) for role in roles]}


def test_only_the_assistant_is_trained():
    example = FORMAT(row("system", "user", "assistant", "user", "assistant"))
    assert [(part.role, part.train) for part in example.segments] == [
        *(("system", False), ("user", False), ("assistant", True), ("user", False), ("assistant", True))
    ]


@pytest.mark.parametrize(
    ("marks", "learnt"),
    [
        ({"train": False}, False),
        ({"train": True}, True),
        ({"weight": 0}, False),
        ({"weight": 1}, True),
        ({"weight": 0.0}, False),
        ({"weight": None, "train": None}, True),
        ({"weight": 1, "train": True}, True),
        ({"weight": 0.25}, True),
    ],
)
def test_a_turn_can_be_left_untrained(marks: dict, learnt: bool):
    turns = [message("user", weight=0), message("assistant", **marks)]
    assert [part.train for part in FORMAT({"messages": turns}).segments] == [False, learnt]


def test_a_separate_system_text_is_the_first_message():
    example = FORMAT({**row("user", "assistant"), "system": "be brief"})
    assert [(part.role, part.text) for part in example.segments][:2] == [("system", "be brief"), ("user", "x")]
    for nothing in (None, ""):
        assert len(FORMAT({**row("user", "assistant"), "system": nothing}).segments) == 2


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert FORMAT({"messages": [message("user", parts)]}).segments[0].text == "ab"


def test_sharegpt_rows_need_their_names_alone():
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
    assert [part.role for part in MESSAGES_SHAREGPT({"conversations": turns}).segments] == ["user", "assistant"]
    with pytest.raises(BadField, match=r"conversations\[1\]\.value: is missing"):
        MESSAGES_SHAREGPT({"conversations": [turns[0], {"from": "gpt"}]})


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({}, "messages: is missing"),
        ({"messages": "hi"}, "messages: is str, expected a list"),
        ({"messages": []}, "messages: is empty"),
        ({"messages": ["hi"]}, "messages[0]: is str, expected an object with role and content"),
        ({"messages": [{"content": "x"}]}, "messages[0].role: is missing"),
        (row("user", "robot"), "messages[1].role: is 'robot', expected one of system, developer, user, assistant, to"),
        ({"messages": [message("user", None)]}, "messages[0].content: is null"),
        ({"messages": [message("user", 7)]}, "messages[0].content: is int, expected text"),
        ({"messages": [message("user", [{"type": "image"}])]}, "messages[0].content[0]: is not a text part, and only"),
        ({"messages": [message("user", train="no")]}, "messages[0].train: is 'no', expected true or false"),
        ({"messages": [message("user", weight=0.5)]}, "messages[0].weight: is 0.5 on a user message; only the ass"),
        ({"messages": [message("user", weight="1")]}, "messages[0].weight: is '1', expected a number of at least 0"),
        ({"messages": [message("assistant", weight=-1)]}, "messages[0].weight: is -1, expected a number of at least"),
        ({"messages": [message("assistant", weight=float("nan"))]}, "messages[0].weight: is nan, expected a number"),
        ({**row("user"), "weight": "a"}, "weight: is 'a', expected a number of at least 0"),
        ({"messages": [message("user", tool_calls=[{}])]}, "messages[0].tool_calls: is on a user message, expected on"),
        ({"messages": [message("assistant", tool_calls=[{}])]}, "messages[0].tool_calls[0]: is not a call, expected a"),
        ({"messages": [call("f", "{")]}, "messages[0].tool_calls[0].arguments: is not JSON: "),
        ({"messages": [call("f", "[]")]}, "messages[0].tool_calls[0].arguments: is list, expected an object"),
        (
            {"messages": [call("f", {}), message("tool", tool_call_id="c2")]},
            "messages[1].tool_call_id: is 'c2', and no earlier message has a call of that id",
        ),
        ({**row("user"), "tools": "{"}, "tools: is not JSON: "),
        ({**row("user"), "tools": {"a": 1}}, "tools: is dict, expected a list of JSON schemas"),
        ({**row("user"), "tools": [1]}, "tools[0]: is not a function, expected"),
        ({**row("user"), "tools": [TOOL], "functions": [TOOL]}, "tools: and functions both occur, expected one of"),
        (
            {"messages": [message("assistant", '<tool_call>{"name"</tool_call>')]},
            "messages[0].content: is not JSON: ",
        ),
        ({"messages": [message("user", weight=1)]}, "messages[0].weight: is 1 on a user message; only the assistant's"),
        ({"messages": [message("user", train=True)]}, "messages[0].train: is True on a user message; only the ass"),
        (
            {"messages": [message("user"), message("assistant", train=True, weight=0)]},
            "messages[1]: train=True and weight=0 contradict each other",
        ),
        ({**row("system", "user"), "system": "s"}, "system: and messages[0] are both system messages, expected one"),
        ({**row("user"), "system": 7}, "system: is int, expected text"),
    ],
)
def test_a_wrong_chat_is_refused_with_the_place_and_reason(wrong: dict, reason: str):
    with pytest.raises(BadField) as error:
        FORMAT(wrong)
    assert str(error.value).startswith(reason)


PROMPT_COMPLETION_FORMAT = load_format("prompt_completion", {})


def test_the_completion_alone_is_trained():
    example = PROMPT_COMPLETION_FORMAT({"system": "s", "prompt": "p", "completion": "c", "source": 7})
    assert [(part.role, part.train) for part in example.segments] == [
        ("system", False),
        ("prompt", False),
        ("completion", True),
    ]


@pytest.mark.parametrize("row", [{"prompt": "p"}, {"prompt": "p", "completion": " "}, {"prompt": 1, "completion": "c"}])
def test_a_row_without_both_texts_is_refused(row: dict):
    with pytest.raises(BadField):
        PROMPT_COMPLETION_FORMAT(row)


def test_errors_name_the_users_own_fields():
    with pytest.raises(BadField, match="answer: is missing"):
        load_format("prompt_completion", {"completion": "answer"})({"prompt": "p"})


def test_prompt_plus_input_is_refused_and_both_fixes_work():
    row = {"prompt": "p", "input": "i", "completion": "c"}
    with pytest.raises(
        BadField, match="input: is ambiguous: the prompt may.*ignore_fields=.input.*instruction: prompt, output: comp"
    ):
        PROMPT_COMPLETION_FORMAT(row)
    left_out = load_format("prompt_completion", {}, ["input"])(row)
    behind = load_format("alpaca", {"instruction": "prompt", "output": "completion"})(row)
    assert [example.segments[0].text for example in (left_out, behind)] == ["p", "p\n\ni"]


SHAREGPT_FORMAT = load_format("sharegpt", {})
SHAREGPT_TURNS = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello", "weight": 0}]


def texts(row: dict) -> list[tuple[str, str, bool]]:
    example, unread = SHAREGPT_FORMAT.take(row)
    assert unread == []
    return [(part.role, part.text, part.train) for part in example.segments]


def test_turns_and_a_separate_system_text_are_read():
    assert texts({"conversations": SHAREGPT_TURNS, "system": "be brief"}) == [
        ("system", "be brief", False),
        ("user", "hi", False),
        ("assistant", "hello", False),
    ]


def test_turns_may_be_spelt_as_messages_are():
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    assert texts({"conversations": turns}) == [("user", "hi", False), ("assistant", "hello", True)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"conversations": [{**SHAREGPT_TURNS[0], "role": "user"}]},
            r"conversations\[\].role: and from both occur, expected one",
        ),
        ({"conversations": [{**SHAREGPT_TURNS[0], "content": "x"}]}, r"conversations\[\].content: and from both occur"),
        ({"conversations": [SHAREGPT_TURNS[0], {"from": "gpt"}]}, r"conversations\[1\].value: is missing"),
        ({"conversations": [{"from": "system", "value": "a"}, *SHAREGPT_TURNS], "system": "b"}, "system: and convers"),
        ({"conversations": "hi"}, "conversations: is str, expected a list"),
        ({"conversations": [{"from": "function_call", "value": "f(1)"}]}, r"conversations\[0\].value: is not JSON"),
    ],
)
def test_an_invalid_conversation_is_refused_with_its_turn(row: dict, reason: str):
    with pytest.raises(BadField, match=reason):
        SHAREGPT_FORMAT(row)


def test_the_whole_text_is_trained():
    (segment,) = load_format("text", {"text": "body"})({"body": "words"}).segments
    assert (segment.role, segment.text, segment.train) == ("text", "words", True)


def parts(segments: tuple) -> list[tuple[str, str, bool]]:
    return [(part.role, part.text, part.train) for part in segments]


def test_a_pair_has_one_prompt_and_two_answers():
    example = load_format("preference", {})(PAIR_OF_ANSWERS | {"system": "s"})
    before = [("system", "s", False), ("prompt", "p", False)]
    assert parts(example.segments) == [*before, ("completion", "good", True)]
    assert parts(example.rejected) == [*before, ("completion", "bad", True)]


ASKED = message("user", "hi")


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [ASKED, message("assistant", "good")], "rejected": [ASKED, message("assistant", "bad")]},
        {"prompt": [ASKED], "chosen": [message("assistant", "good")], "rejected": [message("assistant", "bad")]},
        {"chosen": "\n\nHuman: hi\n\nAssistant: good", "rejected": "\n\nHuman: hi\n\nAssistant: bad"},
    ],
)
def test_a_prompt_may_be_the_beginning_that_both_share(row: dict):
    example = load_format("preference", {})(row)
    assert parts(example.segments) == [("user", "hi", False), ("assistant", "good", True)]
    assert parts(example.rejected) == [("user", "hi", False), ("assistant", "bad", True)]


def test_earlier_answers_of_a_pair_are_not_trained():
    talk = [ASKED, message("assistant", "hello"), ASKED]
    row = {"chosen": [*talk, message("assistant", "good")], "rejected": [*talk, message("assistant", "bad")]}
    example = load_format("preference", {})(row)
    assert [part.train for part in example.segments] == [part.train for part in example.rejected]
    assert [part.train for part in example.segments] == [False, False, False, True]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (PAIR_OF_ANSWERS | {"rejected": "good"}, "rejected: equals chosen"),
        ({"chosen": "a", "rejected": "b"}, "prompt: is missing, and chosen and rejected do not begin with the same"),
        ({"prompt": [ASKED], "chosen": [ASKED], "rejected": [ASKED]}, "chosen: has no answer of the assistant"),
        ({"chosen": [ASKED], "rejected": [ASKED, message("assistant")]}, "rejected: and chosen hold the same messages"),
        ({"prompt": "p", "chosen": "a"}, "rejected: is missing"),
    ],
)
def test_a_wrong_pair_is_refused_with_its_field(row: dict, reason: str):
    with pytest.raises(BadField) as error:
        load_format("preference", {})(row)
    assert str(error.value).startswith(reason)


@pytest.mark.parametrize(
    ("name", "row", "label"),
    [
        ("kto", PAIR | {"label": False}, False),
        ("kto", PAIR | {"label": 1}, True),
        ("classification", {"text": "t", "label": "spam"}, "spam"),
        ("classification", {"text": "t", "label": 3}, 3),
        ("classification", {"text": "t", "label": ["a", "b"]}, ("a", "b")),
        ("regression", {"text": "t", "label": 2}, 2.0),
    ],
)
def test_a_label_is_kept_with_its_type(name: str, row: dict, label: Any):
    found = load_format(name, {})(row).label
    assert (found, type(found)) == (label, type(label))


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("kto", PAIR | {"label": "good"}, "label: is 'good', expected true or false"),
        (
            "classification",
            {"text": "t", "label": {"a": 1}},
            "label: is {'a': 1}, expected the name or number of a class",
        ),
        ("classification", {"text": "t", "label": " "}, "label: is empty"),
        ("regression", {"text": "t", "label": float("nan")}, "label: is nan, expected a finite number"),
        ("regression", {"text": "t", "label": True}, "label: is True, expected a finite number"),
    ],
)
def test_a_wrong_label_is_refused(name: str, row: dict, reason: str):
    with pytest.raises(BadField) as error:
        load_format(name, {})(row)
    assert str(error.value).startswith(reason)


OPENAI = load_format("openai", {})
CALLED = [ASKED, call("f", '{"a": 1}'), message("tool", "3", tool_call_id="c1"), message("assistant", "three")]


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([ASKED], "messages[0].role: is 'user', the last must be the assistant's"),
        ([message("human"), message("assistant")], "messages[0].role: is 'human', expected one of system, developer"),
        (
            [ASKED, message("assistant", weight=0.5)],
            "messages[1].weight: is 0.5 on a assistant message, expected 0 or 1",
        ),
        ([ASKED, message("assistant", None)], "messages[1]: has neither content nor a call"),
        ([ASKED, call("f", {"a": 1})], "messages[1].tool_calls[0].function.arguments: is not JSON text"),
        ([*CALLED[:2], message("tool"), CALLED[3]], "messages[2].tool_call_id: is missing on a tool message"),
    ],
)
def test_openais_rules_are_checked(turns: list, reason: str):
    with pytest.raises(BadField) as error:
        OPENAI({"messages": turns})
    assert str(error.value).startswith(reason)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKED, message("assistant", "no", weight=0), ASKED, message("assistant", "yes")]},
        {"messages": [message("system", "s"), *CALLED], "tools": [TOOL]},
    ],
)
def test_a_row_written_for_openai_is_the_row_that_was_read(row: dict):
    assert openai.row_of(OPENAI(row)) == row
    assert openai.row_of(load_format("messages", {})(row)) == row


def test_what_openai_has_no_place_for_is_not_written():
    for row, field in (
        ({"messages": [ASKED, message("assistant", "a", reasoning_content="r")]}, r"messages\[1\].reasoning_content"),
        ({"messages": [ASKED, message("assistant", "a", weight=0.5)]}, r"messages\[1\].weight: is 0.5"),
    ):
        with pytest.raises(BadField, match=field):
            openai.row_of(load_format("messages", {})(row))


def test_calls_are_read_in_every_shape():
    wanted = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    hermes = '<tool_call>\n{"arguments": {"a": 1}, "name": "f"}\n</tool_call>'
    shapes = [
        ("messages", {"messages": [call("f", '{"a": 1}'), message("tool", "3", tool_call_id="c1")]}),
        ("messages", {"messages": [call("f", {"a": 1}), message("tool", "3")]}),
        (
            "messages",
            {
                "messages": [
                    message("assistant", None, function_call={"name": "f", "arguments": '{"a": 1}'}),
                    message("function", "3", name="f"),
                ]
            },
        ),
        (
            "messages",
            {"messages": [message("assistant", hermes), message("tool", "<tool_response>\n3\n</tool_response>")]},
        ),
        ("messages", {"messages": [message("assistant", hermes.replace('"', "'")), message("tool", "3")]}),
        (
            "sharegpt",
            {
                "conversations": [
                    {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'},
                    {"from": "observation", "value": "3"},
                ]
            },
        ),
    ]
    for name, row in shapes:
        called, answered = load_format(name, {})(row).segments
        (found,) = called.fields["tool_calls"]
        assert {key: value for key, value in found.items() if key != "id"} == wanted
        assert (called.role, called.text, called.train) == ("assistant", "", True)
        assert (answered.role, answered.text, answered.train, answered.fields["name"]) == ("tool", "3", False, "f")


def test_schemas_may_be_json_text_or_bare_functions():
    for tools in ({"tools": [TOOL]}, {"tools": json.dumps([TOOL])}, {"functions": [TOOL["function"]]}):
        assert load_format("messages", {})(row("user") | tools).tools == (TOOL,)


def test_any_order_of_turns_is_read():
    for roles in (["assistant", "user", "assistant"], ["user", "user", "assistant", "assistant"], ["system"]):
        assert [part.role for part in load_format("messages", {})(row(*roles)).segments] == roles
