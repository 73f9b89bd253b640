import pytest

from distft.data.choose import load_format
from distft.data.example import BadField

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
