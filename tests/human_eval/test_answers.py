"""Answers are matched by prompt, and what raters see names no model."""

import json
from pathlib import Path

import pytest

from distft.config import ConfigError
from distft.human_eval.answers import (
    HIDDEN,
    Answer,
    hidden_words,
    matched,
    messages_of,
    named_apart,
    names_of,
    notes_on,
    pattern_of,
    read_answers,
    shown_prompt,
    shown_text,
)
from distft.human_eval.study import System, Turn


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_answers_are_matched_by_prompt_in_any_order(tmp_path: Path):
    rows = [{"prompt": p, "completion": p.upper()} for p in ("x", "y", "x")]
    one = read_answers(write(tmp_path / "a", rows))
    other = read_answers(write(tmp_path / "b", [{"prompt": p, "completion": p * 2} for p in ("y", "x", "x")]))
    pairs = matched([one, other], ["a", "b"])
    assert [(a.completion, b.completion) for a, b in pairs] == [("X", "xx"), ("Y", "yy"), ("X", "xx")]


def test_ids_match_where_every_row_has_one(tmp_path: Path):
    one = read_answers(write(tmp_path / "a", [{"prompt": "x", "id": i, "completion": f"a{i}"} for i in (1, 2)]))
    other = read_answers(write(tmp_path / "b", [{"prompt": "x", "id": i, "completion": f"b{i}"} for i in (2, 1)]))
    assert [(a.completion, b.completion) for a, b in matched([one, other], "ab")] == [("a1", "b1"), ("a2", "b2")]


def test_answers_to_other_prompts_are_refused(tmp_path: Path):
    one = read_answers(write(tmp_path / "a", [{"prompt": "x", "completion": ""}, {"prompt": "y", "completion": ""}]))
    other = read_answers(write(tmp_path / "b", [{"prompt": "x", "completion": ""}]))
    with pytest.raises(ConfigError, match='1 are missing from b, 0 from a, such as "y" 1'):
        matched([one, other], ["a", "b"])


def test_malformed_lines_are_named_all_at_once(tmp_path: Path):
    rows: list[object] = ["{", "[]", {"prompt": "x"}, {"completion": "x"}, {"messages": [{}], "completion": "x"}, ""]
    with pytest.raises(ConfigError) as caught:
        read_answers(write(tmp_path / "a", rows))
    assert [message.partition(": ")[0].rpartition(":")[2] for message in caught.value.messages] == list("12345")
    with pytest.raises(ConfigError, match="holds no answers"):
        read_answers(write(tmp_path / "b", [""]))


def test_messages_stay_messages_next_to_a_rendered_prompt(tmp_path: Path):
    messages = [{"role": "user", "content": "Hi"}]
    [found] = read_answers(write(tmp_path / "a", [{"prompt": "<|im_start|>", "messages": messages, "completion": "x"}]))
    assert found == Answer(messages, "x", f"{json.dumps(messages)} 1", "")


def test_end_tokens_and_chat_markup_are_not_shown():
    assert shown_text("Yes.<|im_end|>\r\n<|endoftext|></s><eos>", None) == "Yes."
    assert shown_text("a < b and c > d, x|y, <b>", None) == "a < b and c > d, x|y, <b>"
    assert shown_text("a\0b\x1b[31m\ud800\x85", None).count("\N{REPLACEMENT CHARACTER}") == 4
    shown_text("\ud800", None).encode()


def test_a_rendered_prompt_is_cut_into_its_turns():
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert shown_prompt(text, None) == (Turn("system", "Be brief."), Turn("user", "Hi"))
    assert shown_prompt("Hello", None) == (Turn("user", "Hello"),)
    assert shown_prompt([{"role": "odd", "content": "x"}], None) == (Turn("odd", "x"),)
    llama = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    llama += "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert messages_of(llama) == [{"role": "user", "content": "Hi"}]
    assert messages_of("Hello") is None and messages_of("Say <|im_start|>user\nHi") is None


def test_a_model_and_its_family_are_hidden():
    words, plain = hidden_words({"SmolLM2-135M-Instruct", "first", "step-20", "latest"})
    assert {"SmolLM2-135M-Instruct", "SmolLM2", "step-20"} <= words
    assert plain == {"first", "latest"}
    hide = pattern_of(words)
    for text in ("I am SmolLM2.", "i am smollm2-135m-instruct.", "SmolLM2-360M", "at step-20", "**SMOLLM2**"):
        assert HIDDEN in shown_text(text, hide), text
    assert (
        shown_text("The first instruct step of a model, smoll.", hide) == "The first instruct step of a model, smoll."
    )


def test_more_words_can_be_hidden():
    words, _ = hidden_words([], ["Acme"])
    assert shown_text("Made by ACME Corp.", pattern_of(words)) == f"Made by {HIDDEN} Corp."
    assert pattern_of([]) is None


def test_names_come_from_the_run_and_from_an_exported_folder(tmp_path: Path):
    run = tmp_path / "runs" / "night-7"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("name: night-7\nmodel: {path: /models/Otter-3B}\n")
    assert names_of(System("night-7@best", "answers/0.jsonl", "", str(run), "best")) == {"night-7", "Otter-3B"}
    final = run / "final"
    final.mkdir()
    (final / "config.json").write_text('{"_name_or_path": "/models/Otter-3B"}')
    assert names_of(System("final", "answers/1.jsonl", "", str(final), "latest")) >= {"Otter-3B", "night-7", "final"}


def test_equal_names_get_a_number():
    systems = [System("final", f"answers/{i}.jsonl", "") for i in range(3)]
    assert [system.name for system in named_apart(systems)] == ["final", "final (2)", "final (3)"]


def test_what_may_unblind_is_noted():
    notes = notes_on([["a long answer indeed"] * 3, ["short"] * 3], ["one", "two"], {"short"})
    assert len(notes) == 2 and "20 characters for one and 5 for two" in notes[0]
    assert "'short' is a name and a plain word in 3 answers" in notes[1] and "hide=[short]" in notes[1]
    assert notes_on([["abc"], ["abcd"]], ["one", "two"], set()) == []
