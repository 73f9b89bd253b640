"""Leaked held-out texts are found verbatim, re-cased, inside longer turns and edited; clean rows are not."""

import random

import pytest

from distft.data.cleaning.rules.leakage import Item, Rule, texts_of_rows
from distft.data.raw import RawRow
from tests.data.cleaning.planted_rows import document, edited, pair, words


def items(seed: int, count: int = 200) -> list[str]:
    choose = random.Random(seed)
    return [" ".join(words(choose, choose.randrange(12, 90))) for _ in range(count)]


HELD_OUT = items(0)
RULE = Rule().indexed(Item(f"test.jsonl:{i}", text) for i, text in enumerate(HELD_OUT))


def recall(make, rule: Rule = RULE) -> float:
    return sum(rule.find(make(text)) is not None for text in HELD_OUT) / len(HELD_OUT)


@pytest.mark.slow
def test_leaks_are_found_verbatim_recased_and_embedded():
    choose = random.Random(1)
    assert recall(document) == 1.0
    assert recall(lambda text: document(text.upper().replace(" ", ", ", 5))) == 1.0
    around = [" ".join(words(choose, 150)) for _ in range(2)]
    assert recall(lambda text: pair("Continue.", f"{around[0]} {text} {around[1]}")) == 1.0
    assert recall(lambda text: pair(f"{around[0]} {text}", "yes")) == 1.0


@pytest.mark.parametrize(("ngram", "threshold"), [(8, 0.2), (13, 0.05)])  # of conf/clean/sft.yaml and pretrain.yaml
def test_leaks_are_found_with_a_tenth_of_the_words_edited(ngram: int, threshold: float):
    choose = random.Random(2)
    rule = Rule(ngram, threshold).indexed(Item(str(i), text) for i, text in enumerate(HELD_OUT))
    assert recall(lambda text: document(" ".join(edited(choose, text.split(), 0.1))), rule) >= 0.9


@pytest.mark.slow
def test_clean_rows_are_not_leaks():
    choose = random.Random(3)
    clean = [document(" ".join(words(choose, choose.randrange(20, 200)))) for _ in range(2000)]
    assert sum(RULE.find(view) is not None for view in clean) / len(clean) <= 0.001


def test_the_template_of_a_benchmark_is_not_a_leak():
    choose = random.Random(4)
    template = "Choose the right answer from the following options and explain your choice in one sentence :"
    rule = Rule().indexed(Item(str(i), f"{template} {' '.join(words(choose, 20))}") for i in range(100))
    assert rule.find(document(f"{template} {' '.join(words(choose, 20))}")) is None
    whole = Rule().indexed([Item("one", template)])
    assert whole.find(document(f"{template} {' '.join(words(choose, 20))}")) is not None


def test_a_leak_names_the_item_and_how_much_of_it():
    found = RULE.find(document(HELD_OUT[7]))
    assert found is not None and found.reason is not None
    assert "test.jsonl:7" in found.reason and found.labels == ("whole",)


def test_a_short_question_with_another_number_is_no_leak():
    rule = Rule().indexed([Item("a", "Is the harbour of town 7 open?")])
    assert rule.find(pair("Is the harbour of town 12 open?", "yes")) is None
    assert rule.find(pair("Well, is the harbour of town 7 open now?", "yes")) is not None


def test_an_item_of_few_words_is_no_leak():
    rule = Rule().indexed([Item("a", "yes it is"), Item("b", "42")])
    assert rule.find(pair("is it so", "yes it is")) is None
    assert Rule().find(document(HELD_OUT[0])) is None


def chat(system: str, asked: str, said: str) -> dict:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": asked}]
    return {"messages": [*messages, {"role": "assistant", "content": said}], "tools": [{"description": system}]}


def test_a_common_system_text_is_no_leak():
    choose = random.Random(5)
    system = "You are a helpful assistant who answers in one short sentence ."
    others = [" ".join(words(choose, 12)) for _ in range(2)]
    held_out = [chat(each, *(" ".join(words(choose, 20)) for _ in "ab")) for each in (system, *others)]
    rule = Rule().indexed(texts_of_rows(RawRow("e.jsonl", i, row) for i, row in enumerate(held_out)))
    assert rule.find(pair(system, " ".join(words(choose, 20)))) is None
    assert rule.find(pair(system, held_out[0]["messages"][1]["content"])) is not None


@pytest.mark.parametrize(("same", "rows"), [(2, 2), (4, 100)])
def test_an_instruction_that_many_items_have_is_no_leak(same: int, rows: int):
    choose = random.Random(6)
    instruction = "Say whether the following review of a film is positive or negative ."
    held_out = [{"instruction": instruction, "output": " ".join(words(choose, 20))} for _ in range(same)]
    held_out += [{"instruction": " ".join(words(choose, 15)), "output": "yes"} for _ in range(rows - same)]
    rule = Rule().indexed(texts_of_rows(RawRow("e.jsonl", i, row) for i, row in enumerate(held_out)))
    assert rule.find(pair(instruction, "positive")) is None
    assert rule.find(pair("Go on.", held_out[0]["output"])) is not None
