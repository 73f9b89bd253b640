"""A prompt from the columns of a row, by data.prompt_template."""

from typing import Any

import pytest

from distft.data.example import BadField
from distft.data.prompt_template import PromptTemplate

ROW = {"question": "2 + 2?", "hint": "small", "completion": "4", "id": 7}


def made(template: str, row: dict[str, Any] = ROW, form: str = "auto", **renamed: str) -> dict[str, Any]:
    return PromptTemplate(template, renamed, form)(row)


def test_a_template_gives_the_prompt_and_its_columns_are_read():
    template = "Q: {{ question }}{% if hint %} ({{ hint }}){% endif %}\nA:\n"
    assert made(template) == {"prompt": "Q: 2 + 2? (small)\nA:\n", "completion": "4", "id": 7}


def test_a_row_without_an_answer_gets_a_text():
    assert made("{{ a }} {{ b }}", {"a": "x", "b": 1, "completion": None})["text"] == "x 1"
    assert made("{{ a }}", {"a": "x", "label": "spam"}, "classification") == {"text": "x", "label": "spam"}


def test_renamed_fields_are_followed():
    row = {"question": "q", "answer": "a"}
    assert made("{{ question }}", row, completion="answer", prompt="asked") == {"asked": "q", "answer": "a"}


def test_any_column_name_is_reached_through_the_row():
    row = {"the question": "q", "completion": "a"}
    assert made("{{ row['the question'] }}", row) == {"prompt": "q", "completion": "a"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"completion": "4"}, "question: is missing or null, and data.prompt_template reads it"),
        ({"question": None, "completion": "4"}, "question: is missing or null"),
        ({"question": "q", "prompt": "p", "completion": "4"}, "prompt: is a column that data.prompt_template does not"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(row: dict[str, Any], reason: str):
    with pytest.raises(BadField) as error:
        made("{{ question }}", row)
    assert str(error.value).startswith(reason)


@pytest.mark.parametrize(
    "template",
    [
        "{{ question.__class__.__mro__[1].__subclasses__() }}",
        "{{ question | attr('__class__') }}",
        "{{ row.update({'a': 1}) }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{{ cycler.__init__.__globals__.os.popen('id') }}",
        "{% include '/etc/passwd' %}",
        "{{ question / 0 }}",
    ],
)
def test_a_template_runs_no_code(template: str):
    with pytest.raises(BadField, match=r"data\.prompt_template: fails on this row"):
        made(template)


def test_a_template_that_is_not_jinja_is_refused():
    with pytest.raises(ValueError, match="is not a Jinja template"):
        PromptTemplate("{% if %}", {})
