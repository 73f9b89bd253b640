import pytest

from distft.data.example import BadField
from distft.data.formats import load_format

FORMAT = load_format("sharegpt", {})
TURNS = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello", "weight": 0}]


def texts(row: dict) -> list[tuple[str, str, bool]]:
    example, unread = FORMAT.take(row)
    assert unread == []
    return [(part.role, part.text, part.train) for part in example.segments]


def test_turns_and_the_system_text_beside_them_are_read():
    assert texts({"conversations": TURNS, "system": "be brief"}) == [
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
            {"conversations": [{**TURNS[0], "role": "user"}]},
            r"conversations\[\].role: and from both occur, expected one",
        ),
        ({"conversations": [{**TURNS[0], "content": "x"}]}, r"conversations\[\].content: and from both occur"),
        ({"conversations": [TURNS[0], {"from": "gpt"}]}, r"conversations\[1\].value: is missing"),
        ({"conversations": [{"from": "system", "value": "a"}, *TURNS], "system": "b"}, "system: and convers"),
        ({"conversations": "hi"}, "conversations: is str, expected a list"),
        ({"conversations": [TURNS[0], {"from": "observation", "value": "3"}]}, "tools cannot be rendered yet"),
    ],
)
def test_what_is_no_conversation_is_refused_with_the_place(row: dict, reason: str):
    with pytest.raises(BadField, match=reason):
        FORMAT(row)
