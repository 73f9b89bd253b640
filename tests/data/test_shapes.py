"""A conversation of a known shape is rendered once, and gives the texts and spans that rendering each turn gives."""

import random
from typing import Any

import pytest

from distft.compat.chat_template import DirectTemplate
from distft.data.example import BadField, Example, Segment
from distft.data.render import ChatRenderer, Training
from distft.data.shapes import Shapes
from distft.data.template_reads import words_read
from distft.data.tokenize import byte_tokenizer
from tests.data.test_families import FAMILIES, TOKENIZERS

TEXTS = (
    *("What is 2 + 2?", "It is 4.", "é🏛", "x" * 200, "100 %s of {0}", "a\nb", "user", " lead", "trail\n", ""),
    *("<think>\nwhy\n</think>\n\nso", "<think>\n\n</think>\n\nso", "</think>", "<|im_end|>", "<tool_response>a"),
    *("<|im_start|>assistant\nno", "<|channel|>final<|message|>no", "content"),
)
CHATML = byte_tokenizer().chat_template
SEVERAL_PROMPTS = ("qwen3", "deepseek_v3_1", "glm4_5")  # with and without room to reason


def conversation(choose: random.Random) -> Example:
    roles = ["system"] * (choose.random() < 0.3) + ["user", "assistant"] * choose.randint(1, 3)
    roles += ["user"] * (choose.random() < 0.2)
    reasons = choose.random() < 0.4
    segments = []
    for role in roles:
        fields = {"reasoning_content": choose.choice(TEXTS[:9])} if reasons and role == "assistant" else {}
        segments.append(Segment(role, choose.choice(TEXTS), role == "assistant", fields=fields))
    return Example(tuple(segments))


def outcome(renderer: ChatRenderer, example: Example) -> Any:
    try:
        return renderer.rows(example)
    except BadField as error:
        return str(error)


@pytest.mark.slow
@pytest.mark.parametrize("training", [Training(), Training("last"), Training(reasoning=False)], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_shape_gives_what_rendering_each_turn_gives(name: str, training: Training):
    fast, slow = (ChatRenderer(TOKENIZERS[name], training=training) for _ in range(2))
    slow.shapes = Shapes(None)
    choose = random.Random(name)
    for _ in range(60):
        example = conversation(choose)
        assert outcome(fast, example) == outcome(slow, example)
    plans = [plan for plan in fast.shapes.plans.values() if plan]
    assert plans and any(plan.places is not None for plan in plans) == (name not in SEVERAL_PROMPTS)
    assert fast.ends == slow.ends


def renders(renderer: ChatRenderer, *contents: str) -> int:
    """How often the template runs for a conversation."""
    roles = ["user", "assistant"] * len(contents)
    segments = [Segment(role, text, role == "assistant") for role, text in zip(roles, contents, strict=False)]
    count, render = [0], renderer.template.render

    def counted(*arguments: Any, **options: Any) -> str:
        count[0] += 1
        return render(*arguments, **options)

    renderer.template.render = counted  # type: ignore[method-assign]
    try:
        renderer.rows(Example(tuple(segments)))
    finally:
        renderer.template.render = render  # type: ignore[method-assign]
    return count[0]


def test_a_conversation_of_a_known_shape_is_rendered_once():
    renderer = ChatRenderer(byte_tokenizer())
    assert renders(renderer, "one", "two", "three", "four") > 4
    assert renders(renderer, "once", "more", "of that", "shape") == 1
    assert renders(renderer, "once", "more", "of that ", "shape") == 4  # spaces at an end


SWITCH = CHATML.replace(
    "assistant\n' }}", "assistant\n' }}{% if '/quiet' in messages[-1].content %}{{ '<think></think>' }}{% endif %}"
)


def test_a_text_that_changes_the_prompt_alone_is_seen():
    fast, slow = (ChatRenderer(byte_tokenizer(), SWITCH) for _ in range(2))
    slow.shapes = Shapes(None)
    assert fast.shapes.words == {"/quiet"}
    for asked in ("a", "b", "b /QUIET", "b /quiet"):
        row = Example((Segment("user", asked, False), Segment("assistant", "<think></think>so", True)))
        assert outcome(fast, row) == outcome(slow, row)
    assert "messages[1].content" in outcome(fast, row)  # where it begins with what the prompt ends with


def reads(template: str) -> Any:
    return words_read(DirectTemplate(byte_tokenizer(), template).tree())


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content | length }}",
        "{{ messages[0].content[:9] }}",
        "{{ messages[0].content[0] }}",
        "{{ messages[0].content.isdigit() }}",
        "{{ messages[0].content.split() }}",
        "{{ messages[0].content | wordcount }}",
        "{{ messages[0].content | replace('\n', ' ') }}",
        "{{ messages[0].content == messages[1].content }}",
        "{{ messages[0].content > 'm' }}",
        "{{ messages[0].content.startswith(messages[1].content) }}",
        "{{ ' ' in messages[0].content }}",
        "{{ messages[0].content is upper }}",
        "{{ messages[0] | attr('content') }}",
    ],
)
def test_a_template_that_reads_texts_in_other_ways_has_no_shapes(template: str):
    assert reads(template) is None


def test_the_words_that_a_template_looks_for_are_found():
    template = (
        "{% set ns = namespace(last=0) %}{% for m in messages[1:] %}{% if m.role == 'user' and loop.index0 > ns.last %}"
        "{{ m.content.split('</A>')[-1] | trim }}{{ m['content'].lstrip('\n*') }}{% elif m.content in ('x', 'y') %}"
        "{% endif %}{% endfor %}{% if messages | length > 2 and messages[0].content.startswith('Z') %}{% endif %}"
    )
    assert reads(template) == {"</a>", "*", "x", "y", "z"}
