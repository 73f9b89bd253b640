from typing import Any

import pytest

from distft.data.choose import load_format
from distft.data.example import BadField

FORMAT = load_format("messages", {})
SHAREGPT = load_format("messages", {"messages": "conversations", "role": "from", "content": "value"})


def message(role: str, content: Any = "x", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def row(*roles: str) -> dict[str, Any]:
    return {"messages": [message(role) for role in roles]}


def test_the_assistant_is_trained_and_nobody_else():
    example = FORMAT(row("system", "user", "assistant", "user", "assistant"))
    assert [(part.role, part.train) for part in example.segments] == [
        *(("system", False), ("user", False), ("assistant", True), ("user", False), ("assistant", True))
    ]


def test_a_message_can_be_left_untrained():
    example = FORMAT({"messages": [message("user"), message("assistant", train=False)]})
    assert not any(part.train for part in example.segments)


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert FORMAT({"messages": [message("user", parts)]}).segments[0].text == "ab"


def test_sharegpt_rows_need_their_names_alone():
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
    assert [part.role for part in SHAREGPT({"conversations": turns}).segments] == ["user", "assistant"]
    with pytest.raises(BadField, match=r"conversations\[1\]\.value: is missing"):
        SHAREGPT({"conversations": [turns[0], {"from": "gpt"}]})


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({}, "messages: is missing"),
        ({"messages": "hi"}, "messages: is str, expected a list"),
        ({"messages": []}, "messages: is empty"),
        ({"messages": ["hi"]}, "messages[0]: is str, expected an object with role and content"),
        ({"messages": [{"content": "x"}]}, "messages[0].role: is missing"),
        (row("user", "robot"), "messages[1].role: is 'robot', expected one of system, user, assistant, human, gpt"),
        (row("assistant"), "messages[0].role: is 'assistant' where it is the user's turn"),
        (row("user", "user"), "messages[1].role: is 'user' where it is the assistant's turn"),
        (row("user", "assistant", "system"), "messages[2].role: is 'system' where it is the user's turn"),
        ({"messages": [message("user", None)]}, "messages[0].content: is null"),
        ({"messages": [message("user", 7)]}, "messages[0].content: is int, expected text"),
        ({"messages": [message("user", [{"type": "image"}])]}, "messages[0].content[0]: is no text part, and only"),
        ({"messages": [message("user", train="no")]}, "messages[0].train: is 'no', expected true or false"),
        ({"messages": [message("user", tool_calls=[1])]}, "messages[0].tool_calls: tool calls cannot be rendered yet"),
        ({**row("user"), "tools": [1]}, "tools: tool calls cannot be rendered yet"),
    ],
)
def test_a_wrong_chat_is_refused_with_the_place_and_reason(wrong: dict, reason: str):
    with pytest.raises(BadField) as error:
        FORMAT(wrong)
    assert str(error.value).startswith(reason)
