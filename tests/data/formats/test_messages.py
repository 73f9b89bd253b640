from typing import Any

import pytest

from distft.data.example import BadField
from distft.data.formats import load_format

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
    ],
)
def test_a_turn_can_be_left_untrained(marks: dict, learnt: bool):
    turns = [message("user", weight=0), message("assistant", **marks)]
    assert [part.train for part in FORMAT({"messages": turns}).segments] == [False, learnt]


def test_a_system_text_beside_the_messages_is_the_first_of_them():
    example = FORMAT({**row("user", "assistant"), "system": "be brief"})
    assert [(part.role, part.text) for part in example.segments][:2] == [("system", "be brief"), ("user", "x")]
    for nothing in (None, ""):
        assert len(FORMAT({**row("user", "assistant"), "system": nothing}).segments) == 2


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
        (row("assistant"), "messages[0].role: is 'assistant', expected 'user'"),
        (row("user", "user"), "messages[1].role: is 'user', expected 'assistant'"),
        (row("user", "assistant", "system"), "messages[2].role: is 'system', expected 'user'"),
        ({"messages": [message("user", None)]}, "messages[0].content: is null"),
        ({"messages": [message("user", 7)]}, "messages[0].content: is int, expected text"),
        ({"messages": [message("user", [{"type": "image"}])]}, "messages[0].content[0]: is not a text part, and only"),
        ({"messages": [message("user", train="no")]}, "messages[0].train: is 'no', expected true or false"),
        (
            row("user", "tool"),
            "messages[1].role: is 'tool', expected one of system, user, assistant, human, gpt; tools",
        ),
        ({"messages": [message("user", weight=0.5)]}, "messages[0].weight: is 0.5, expected 0 or 1; other weights"),
        ({"messages": [message("user", weight="1")]}, "messages[0].weight: is '1', expected 0 or 1"),
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
