"""A row as rules see it: prompt, answer and words, and every place that a changed text must reach."""

import numpy as np

from distft.data.cleaning.view import ngram_hashes, normalized_words, texts_of, view_of, with_texts, word_hashes
from distft.data.example import Example, Segment

CALL = {"tool_calls": [{"function": {"name": "send", "arguments": {"to": "jo@firma.de", "times": 2}}}]}


def test_the_first_trained_text_divides_prompt_and_answer():
    segments = [("system", "be brief"), ("user", "one?"), ("assistant", "1"), ("user", "two?"), ("assistant", "2")]
    view = view_of("a", 1, Example(tuple(Segment(role, text, role == "assistant") for role, text in segments)))
    assert (view.prompt, view.answer) == ("one?", "1\n2")
    assert view.pair == "be brief\none?\n1\ntwo?\n2"


def test_reasoning_and_rejected_answers_are_texts_of_a_row():
    prompt, thinking = Segment("user", "why?", False), {"reasoning_content": "because it is"}
    chosen, rejected = Segment("assistant", "so", True, fields=thinking), Segment("assistant", "no", True)
    found = texts_of(Example((prompt, chosen), rejected=(prompt, rejected)))
    assert [(text.role, text.text, text.trained) for text in found] == [
        ("user", "why?", False),
        ("reasoning", "because it is", True),
        ("assistant", "so", True),
        ("rejected", "no", False),
    ]


def test_a_change_reaches_calls_reasoning_and_rejected_answers():
    part = Segment("assistant", "to jo@firma.de", True, 1.0, CALL | {"reasoning_content": "jo@firma.de"}, "jo@firma.de")
    example = Example((part,), rejected=(part,))
    changed = with_texts(example, lambda text: text.replace("jo@firma.de", "<EMAIL>"))
    assert "firma" not in repr(changed) and repr(changed).count("<EMAIL>") == 8
    assert changed.segments[0].fields["tool_calls"][0]["function"]["arguments"]["times"] == 2
    assert with_texts(example, str) is example


def test_words_ignore_case_width_and_punctuation():
    assert normalized_words("Hello, WORLD_2!") == ["hello", "world", "2"]
    assert normalized_words("Ｇroße ﬁne—漢字か") == ["grosse", "fine", "漢", "字", "か"]
    assert view_of("a", 1, Example((Segment("text", "A b.", True),))).identity("pair") == view_of(
        "b", 2, Example((Segment("text", " a  B", True),))
    ).identity("pair")
    assert view_of("a", 1, Example((Segment("text", "  ", True),))).identity("pair") == 0


def test_run_hashes_depend_on_order_and_length_alone():
    hashes = word_hashes(["a", "b", "c", "a", "b", "c"])
    runs = ngram_hashes(hashes, 3)
    assert len(runs) == 4 and runs[0] == runs[3] and len(set(runs.tolist())) == 3
    assert ngram_hashes(hashes[:2], 5).shape == (1,) and ngram_hashes(hashes[:0], 5).shape == (0,)
    assert not set(ngram_hashes(hashes, 2).tolist()) & set(runs.tolist())
    many = ngram_hashes(word_hashes([str(i) for i in range(20_000)]), 5)
    assert len(np.unique(many)) == len(many)
