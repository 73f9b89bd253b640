"""Rows are rendered by the chat template, and the spans of the assistant's text are found."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.data.example import BadField, Example, Segment, text_field
from distft.data.render import ChatRenderer, PlainRenderer, TemplateRefused, make_renderer
from distft.data.tokenize import byte_tokenizer
from tests.data.conftest import FAMILIES, family_tokenizer

END_OF_TURN = {"gemma3": "<end_of_turn>", "gpt_oss": "<|return|>", "phi3": "<|end|>", "llama2": " </s>"}
RENDERERS = {family: ChatRenderer(family_tokenizer(family)) for family in FAMILIES}
CHATML = ChatRenderer(byte_tokenizer())

families = pytest.mark.parametrize("family", FAMILIES)


def chat(*texts: str, train: bool = True) -> Example:
    roles = ["user", "assistant"] * len(texts)
    return Example(tuple(Segment(r, t, r == "assistant" and train) for r, t in zip(roles, texts, strict=False)))


OPENING = {"gpt_oss": "<|channel|>final<|message|>", "llama2": " "}  # of an answer, which the model generates


def trained(renderer, example: Example) -> list[str]:
    """The trained spans of all texts of a conversation."""
    return [row.text[start:end] for row in renderer.rows(example) for start, end in row.spans]


@families
def test_only_the_answer_and_its_end_of_turn_are_trained(family: str):
    end = END_OF_TURN.get(family, FAMILIES[family][1])
    said = [f"{OPENING.get(family, '')}It is 4.{end}"]
    assert trained(RENDERERS[family], chat("What is 2 + 2?", "It is 4.")) == said


@families
def test_every_answer_of_a_chat_is_trained(family: str):
    spans = trained(RENDERERS[family], chat("one", "first", "two", "second", "three", "third"))
    end = END_OF_TURN.get(family, FAMILIES[family][1])
    assert spans == [OPENING.get(family, "") + answer + end for answer in ("first", "second", "third")]


def test_an_answer_with_another_end_in_history_has_its_own_text():
    rows = RENDERERS["gpt_oss"].rows(chat("one", "first", "two", "second"))
    assert [len(row.spans) for row in rows] == [1, 1]
    assert rows[0].text.endswith("<|message|>first<|return|>")
    assert "<|message|>first<|end|>" in rows[1].text


@families
def test_an_answer_equal_to_the_question_is_found_in_its_turn(family: str):
    texts = RENDERERS[family].rows(chat("same words", "same words", "same words", "same words"))
    opening, found = len(OPENING.get(family, "")), []
    for rendered in texts:
        asked = [i for i in range(len(rendered.text)) if rendered.text.startswith("same words", i)]
        found += [asked.index(start + opening) for start, _ in rendered.spans]
    assert found == [1, 3]


def test_a_message_marked_untrained_is_context_only():
    example = Example((*chat("one", "first", train=False).segments, *chat("two", "second").segments))
    assert trained(CHATML, example) == ["second<|im_end|>"]


def test_empty_thinking_inserted_by_a_template_is_not_trained():
    rendered = RENDERERS["qwen3"](chat("hi", "hello"))
    assert "<think>\n\n</think>\n\nhello" in rendered.text
    assert trained(RENDERERS["qwen3"], chat("hi", "hello")) == ["hello<|im_end|>"]


def test_thinking_in_the_row_is_trained():
    thought = "<think>\nbe polite\n</think>\n\nhello"
    assert trained(RENDERERS["qwen3"], chat("hi", thought)) == [f"{thought}<|im_end|>"]


def test_thinking_that_history_drops_is_trained_separately():
    thought = "<think>\nbe polite\n</think>\n\nhello"
    first, second = RENDERERS["qwen3"].rows(chat("hi", thought, "bye", "ciao"))
    assert [first.text[start:end] for start, end in first.spans] == [f"{thought}<|im_end|>"]
    assert [second.text[start:end] for start, end in second.spans] == ["ciao<|im_end|>"]
    assert "be polite" not in second.text


def test_trimmed_content_is_found_without_its_spaces():
    assert trained(RENDERERS["gemma3"], chat("hi", "  hello \n")) == ["hello<end_of_turn>"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["smollm2", "gemma3", "mistral", "qwen3"])
@given(turns=st.lists(st.text("ab <>|\n[]/_end", min_size=1).filter(str.strip), min_size=2, max_size=6))
def test_spans_hold_the_assistants_text_for_any_text(family: str, turns: list[str]):
    turns = turns[: len(turns) // 2 * 2]
    end = END_OF_TURN.get(family, FAMILIES[family][1])
    spans = ["".join(span.split()) for span in trained(RENDERERS[family], chat(*turns))]
    assert sorted(spans) == sorted("".join((answer + end).split()) for answer in turns[1::2])


def test_an_error_raised_by_a_template_is_quoted():
    example = Example((Segment("system", "Be brief.", False), *chat("hi", "hello").segments))
    with pytest.raises(BadField, match=r"messages: the chat template refuses them: .*must alternate"):
        RENDERERS["mistral"](example)


def test_a_row_whose_answer_the_template_replaces_is_refused():
    template = "{% for m in messages %}{{ 'censored' if 'oath' in m.content else m.content }}<|im_end|>{% endfor %}"
    renderer = ChatRenderer(byte_tokenizer(), template)
    assert trained(renderer, chat("hi", "hello")) == ["hello<|im_end|>"]
    with pytest.raises(BadField, match=r"messages\[1\]\.content: the chat template changes it beyond recognition"):
        renderer(chat("hi", "an oath"))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "not a special token"),
        ("{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}", "hides what the assistant says"),
        ("{{ messages[0].content }}<|im_end|>", "hides what the assistant says"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}<|im_end|>{% endfor %}", "hides what the assistant"),
        ("{{ messages[0].nothing.at.all }}", "hides what the assistant says"),
    ],
)
def test_a_template_whose_spans_cannot_be_determined_is_refused(template: str, reason: str):
    with pytest.raises(TemplateRefused, match=reason):
        ChatRenderer(byte_tokenizer(), template)


def test_a_template_with_two_begin_tokens_is_refused():
    tokenizer = family_tokenizer("llama3")
    with pytest.raises(TemplateRefused, match="two <|begin_of_text|>"):
        ChatRenderer(tokenizer, "{{ bos_token }}" + tokenizer.chat_template)


def test_prompt_and_completion_are_user_and_assistant_turns():
    pair = Example((Segment("prompt", "hi", False), Segment("completion", "hello", True)))
    assert CHATML(pair) == CHATML(chat("hi", "hello"))


def test_without_a_template_prompt_and_completion_are_joined():
    rendered = PlainRenderer()(Example((Segment("prompt", "2+2=", False), Segment("completion", "4", True))))
    assert rendered.text == "2+2=4"
    assert rendered.spans == ((4, 5),)
    assert rendered.add_eos


def test_messages_without_a_template_are_refused():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(TemplateRefused, match=r"messages need a chat template.*\.jinja"):
        make_renderer(tokenizer, "auto")(chat("hi", "hello"))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["%d %b %Y", "%Y-%m-%d", "%-d %B %y, %A", "%B %d, %Y %H:%M:%S", "%c|%x|%j", "%F"])
def test_date_formats_match_strftime(form: str):
    template = f"\n  {{% macro today() %}}{{{{ strftime_now({form!r}) }}}}{{% endmacro %}}\n[{{{{ today() }}}}]"
    renderer = ChatRenderer(byte_tokenizer(), template + byte_tokenizer().chat_template, "2026-01-02")
    printed = datetime(2026, 1, 2).strftime(form)
    assert renderer(chat("hi", "hello")).text.startswith(f"\n[{printed}]<|im_start|>user")


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
def test_a_text_that_cannot_be_tokenized_names_its_field(row: dict, reason: str):
    with pytest.raises(BadField) as error:
        text_field(row, "text", "a.")
    assert str(error.value) == reason


def test_a_text_is_not_changed():
    assert text_field({"text": " é🏛 \n"}, "text") == " é🏛 \n"
