import pytest

from distft.data.example import BadField
from distft.data.formats import load_format

FORMAT = load_format("prompt_completion", {})


def test_the_completion_alone_is_trained():
    example = FORMAT({"system": "s", "prompt": "p", "completion": "c", "source": 7})
    assert [(part.role, part.train) for part in example.segments] == [
        ("system", False),
        ("prompt", False),
        ("completion", True),
    ]


@pytest.mark.parametrize("row", [{"prompt": "p"}, {"prompt": "p", "completion": " "}, {"prompt": 1, "completion": "c"}])
def test_a_row_without_both_texts_is_refused(row: dict):
    with pytest.raises(BadField):
        FORMAT(row)


def test_errors_name_the_users_own_fields():
    with pytest.raises(BadField, match="answer: is missing"):
        load_format("prompt_completion", {"completion": "answer"})({"prompt": "p"})


def test_an_input_beside_a_prompt_is_not_guessed_at_and_both_ways_out_work():
    row = {"prompt": "p", "input": "i", "completion": "c"}
    with pytest.raises(
        BadField, match="input: is ambiguous: the prompt may.*ignore_fields=.input.*instruction: prompt, output: comp"
    ):
        FORMAT(row)
    left_out = load_format("prompt_completion", {}, ["input"])(row)
    behind = load_format("alpaca", {"instruction": "prompt", "output": "completion"})(row)
    assert [example.segments[0].text for example in (left_out, behind)] == ["p", "p\n\ni"]
