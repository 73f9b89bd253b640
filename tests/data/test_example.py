import pytest

from distft.data.example import BadField, text_field


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "a.text: is missing"),
        ({"text": None}, "a.text: is null"),
        ({"text": 3}, "a.text: is int, expected text"),
        ({"text": ["x"]}, "a.text: is list, expected text"),
        ({"text": ""}, "a.text: is empty"),
        ({"text": " \n\t"}, "a.text: is empty"),
        ({"text": "ab\0c"}, "a.text: holds a NUL character at position 2"),
        ({"text": "ab\ud800"}, "a.text: is not UTF-8, or half of a surrogate pair, at position 2"),
    ],
)
def test_a_text_no_tokenizer_takes_is_refused_with_its_field_and_reason(row: dict, reason: str):
    with pytest.raises(BadField) as error:
        text_field(row, "text", "a.")
    assert str(error.value) == reason


def test_a_text_is_kept_as_it_is():
    assert text_field({"text": " é🏛 \n"}, "text") == " é🏛 \n"
