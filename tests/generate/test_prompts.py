"""A prompt has the tokens that a trained row has before its answer; malformed lines are named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distft.config import ConfigError
from distft.data.example import Example, Segment
from distft.data.render import PlainRenderer, make_renderer
from distft.data.shards import Row
from distft.data.tokenize import CHATML, RowTokenizer, byte_tokenizer
from distft.generate.prompts import PromptRenderer, chat, cut, read_prompts, text_prompt, too_long

THINKING = CHATML.replace(
    "message['content'] +",
    "('<think></think>' if loop.last and message['role'] == 'assistant' else '') + message['content'] +",
).replace("'<|im_start|>assistant\n' }}", "'<|im_start|>assistant\n<think></think>' }}")
TURNS = [("system", "Be terse."), ("user", "Two and two?"), ("assistant", "Four."), ("user", "And three?")]
PLAIN = (Segment("prompt", "Two and two is ", False),)
ASKED = (Segment("prompt", "Two and two?", False),)


def renderer(template: str) -> PromptRenderer:
    tokenizer = byte_tokenizer()
    return PromptRenderer(make_renderer(tokenizer, template), tokenizer)


@pytest.mark.parametrize("template", ["auto", THINKING, "none"])
def test_a_prompt_is_what_a_trained_row_has_before_its_answer(template: str) -> None:
    render = renderer(template)
    talk = tuple(Segment(role, text, role == "assistant") for role, text in TURNS)
    for prompt, role in ((ASKED, "completion"), (PLAIN, "completion"), (talk, "assistant")):
        if template == "none" and role == "assistant":
            continue
        row = Example((*prompt, Segment(role, "The answer.", True)))
        [made] = RowTokenizer(render.tokenizer, None)([render.renderer(row)])
        ids, begins = cut(made.row)
        assert render(Example(prompt)) == ids[:begins]
        assert render.decode(ids[begins:]).strip() == "The answer."


def test_messages_and_prompt_mean_the_same() -> None:
    render = renderer("auto")
    assert render(text_prompt("Hi")) == render(chat([{"role": "user", "content": "Hi"}]))
    assert isinstance(renderer("none").renderer, PlainRenderer)


def test_a_run_on_plain_text_continues_plain_text() -> None:
    tokenizer = byte_tokenizer()
    render = PromptRenderer(make_renderer(tokenizer, "auto"), tokenizer, is_plain=True)
    assert render.decode(render(text_prompt("Once upon")), special=True) == "Once upon"


def test_a_row_without_a_prompt_is_cut_in_the_middle() -> None:
    row = Row(np.arange(9, dtype=np.int32), np.array([False] + [True] * 8))
    assert cut(row) == (list(range(9)), 4)
    several = np.array([0, 0, 1, 1, 0, 0, 1, 1, 0], dtype=bool)
    assert cut(Row(np.arange(9, dtype=np.int32), several)) == (list(range(8)), 6)


LINES: dict[str, str] = {
    '{"prompt": "a"': "is not JSON: ",
    '["a"]': 'is list, expected an object such as {"prompt": "Hello"}',
    '{"prompt": "a", "promt": "b"}': "promt: is not read. Did you mean prompt? Allowed: prompt, messages, id",
    '{"id": 1}': "expected one of prompt and messages",
    '{"prompt": "a", "messages": []}': "expected one of prompt and messages, got both",
    '{"prompt": 3}': "prompt: is int, expected text",
    '{"prompt": " "}': "prompt: is empty",
    '{"prompt": "\\ud800"}': "prompt: is half of a surrogate pair at position 0",
    '{"messages": []}': "messages: expected a list of objects with role and content",
    '{"messages": [{"role": "user"}]}': "messages[0]: expected an object with role and content",
    '{"messages": [{"role": "bot", "content": "a"}]}': "messages[0].role: is 'bot'. Allowed: system, user",
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}': (
        "messages[1].role: is 'assistant', expected 'user' at the end"
    ),
}


def test_malformed_lines_are_named_by_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "good"}\n\n' + "\n".join(LINES) + "\n")
    with pytest.raises(ConfigError) as caught:
        read_prompts(file, renderer("auto"))
    *found, more = caught.value.messages
    assert more == "and 2 more lines"
    for number, (message, expected) in enumerate(zip(found, LINES.values(), strict=False), 3):
        assert message.startswith(f"{file}:{number}: {expected}"), message
    for line, expected in list(LINES.items())[-2:]:
        file.write_text(line)
        with pytest.raises(ConfigError, match=":1: messages"):
            read_prompts(file, renderer("auto"))
        assert expected


def test_a_chat_without_a_template_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "a"}]}')
    with pytest.raises(ConfigError, match=r"prompts.jsonl:1: messages need a chat template"):
        read_prompts(file, renderer("none"))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="holds no prompts"):
        read_prompts(tmp_path / "prompts.jsonl", renderer("auto"))


def test_a_prompt_needs_room_for_one_token(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}')
    requests: Any = read_prompts(file, renderer("none"))
    assert too_long(requests, 2) == [] == too_long(requests, None)
    assert "the prompt has 1 tokens" in too_long(requests, 1)[0]
