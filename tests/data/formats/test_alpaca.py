import pytest

from distft.data.formats import Format, load_format

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
