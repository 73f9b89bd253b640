"""The data stage prepares rows once, splits, counts, and lists what it left out."""

import json
import random
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.config import Config, ConfigError
from distft.data.example import Example, Segment
from distft.data.key import prepared_dir
from distft.data.pipeline import content_id, split_position
from distft.data.render import TemplateRefused
from distft.data.shards import Rows
from distft.data.stage import ensure_prepared, prepare_data
from distft.data.tokenize import byte_tokenizer

TOKENIZER = byte_tokenizer()
Make = Callable[..., Config]
WriteRows = Callable[..., Path]


def pair(prompt: str, completion: str = "x") -> dict[str, str]:
    return {"prompt": prompt, "completion": completion}


def texts(folder: Path, split: str) -> list[str]:
    return [TOKENIZER.decode(row.input_ids) for row in Rows(folder, split)]


def test_shards_hold_the_rows_in_order(config: Make, write_rows: WriteRows):
    train = write_rows([pair(f"question {i}", f"answer {i}") for i in range(600)])
    prepared = prepare_data(config(train))
    assert [text.split("\n")[1] for text in texts(prepared.folder, "train")] == [
        f"question {i}<|im_end|>" for i in range(600)
    ]
    assert prepared.report["splits"]["train"]["tokens"] == Rows(prepared.folder, "train").lengths.sum()
    assert prepared.report["splits"]["train"]["trained_tokens"] == Rows(prepared.folder, "train").num_targets.sum()


def test_the_second_call_uses_the_first_result(config: Make, write_rows: WriteRows):
    asked = config(write_rows([pair("a"), pair("b")]))
    assert prepared_dir(asked) is None
    first = prepare_data(asked)
    second = prepare_data(asked)
    assert (first.reused, second.reused) == (False, True)
    assert first.folder == second.folder == prepared_dir(asked)
    assert first.report == second.report


def test_several_files_and_formats_make_one_set(config: Make, write_rows: WriteRows, tmp_path: Path):
    (tmp_path / "more.csv").write_text("prompt,completion\nb,x\n")
    prepared = prepare_data(config([write_rows([pair("a")]), tmp_path / "more.csv"]))
    assert [text.split("\n")[1][0] for text in texts(prepared.folder, "train")] == ["a", "b"]


def test_every_bad_row_is_listed_with_line_field_and_reason(config: Make, tmp_path: Path):
    choose = random.Random(0)
    wrong: list[tuple[bytes, str]] = [
        (b'{"prompt": "p", "completion": ', "line: is not JSON"),
        (b'{"prompt": "p"}', "completion: is missing"),
        (b'{"prompt": "p", "completion": ""}', "completion: is empty"),
        (b'{"prompt": "p", "completion": 3}', "completion: is int"),
        (b'{"prompt": "\\ud800", "completion": "c"}', "prompt: is not UTF-8"),
        (b'{"prompt": "p\\u0000", "completion": "c"}', "prompt: holds a NUL"),
        (b'{"prompt": "\xff", "completion": "c"}', "line: is not UTF-8"),
        (b"null", "line: is a JSON NoneType"),
    ]
    expected, lines = [], []
    path = tmp_path / "fuzzed (é).jsonl"
    for number in range(1, 1001):
        if choose.random() < 0.3:
            line, reason = choose.choice(wrong)
            expected.append(f"{path}:{number}: {reason}")
        else:
            line = json.dumps(pair(f"p{number}", "c" * choose.randrange(1, 50))).encode()
        lines.append(line + choose.choice([b"\n", b"\r\n"]))
    path.write_bytes(b"".join(lines))
    prepared = prepare_data(config(path))
    listed = (prepared.folder / "bad_rows.txt").read_text().splitlines()
    assert len(listed) == len(expected) == prepared.report["streams"]["train"]["bad"] > 200
    assert all(line.startswith(start) for line, start in zip(listed, expected, strict=True))
    assert len(Rows(prepared.folder, "train")) == 1000 - len(expected)
    assert prepared.report["streams"]["train"]["first_bad"] == listed[:5]
    assert prepared_dir(config(path)) is None
    assert prepared_dir(config(path, max_bad_fraction=0.5)) == prepared.folder


def test_no_duplicate_is_held_out(config: Make, write_rows: WriteRows):
    rows = [pair(f"question {i % 100}" + " " * (i // 100), f"answer {i % 100}") for i in range(1000)]
    prepared = prepare_data(config(write_rows(rows), eval=0.2))
    train, held_out = (Rows(prepared.folder, split).ids for split in ("train", "eval"))
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == 1000
    assert 5 <= len(set(held_out)) <= 35


def test_added_rows_do_not_move_the_others(config: Make, write_rows: WriteRows):
    def held_out(count: int) -> set[str]:
        train = write_rows([pair(f"question {i}") for i in range(count)])
        return set(Rows(prepare_data(config(train, eval=0.2)).folder, "eval").ids)

    few, more = held_out(200), held_out(400)
    assert few < more


def test_a_fraction_of_a_few_rows_holds_out_one(config: Make, write_rows: WriteRows):
    report = prepare_data(config(write_rows([pair(str(i)) for i in range(5)]), eval=0.001)).report
    assert (report["splits"]["train"]["rows"], report["splits"]["eval"]["rows"]) == (4, 1)


def test_without_eval_nothing_is_held_out(config: Make, write_rows: WriteRows):
    prepared = prepare_data(config(write_rows([pair("a"), pair("b")])))
    assert list(prepared.report["splits"]) == ["train"]
    assert len(Rows(prepared.folder, "eval")) == 0


@pytest.mark.parametrize(("overlap", "left"), [("warn", 3), ("drop", 1), ("stop", 3)])
def test_overlap_with_held_out_rows_is_counted_and_excludable(
    config: Make, write_rows: WriteRows, overlap: str, left: int
):
    train = write_rows([pair("a"), pair("b"), pair("B ")], "train.jsonl")
    asked = config(train, eval=str(write_rows([pair("b")], "held.jsonl")), overlap=overlap)
    prepared = prepare_data(asked)
    assert prepared.report["streams"]["train"]["overlap"] == 2
    assert len(Rows(prepared.folder, "train")) == left
    assert (prepared_dir(asked) is None) == (overlap == "stop")


def test_rows_without_a_trained_token_are_counted_and_left_out(config: Make, write_rows: WriteRows):
    hello, answer = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
    rows = [[hello], [hello, answer], [hello, answer | {"train": False}]]
    prepared = prepare_data(config(write_rows([{"messages": messages} for messages in rows])))
    assert prepared.report["streams"]["train"]["untrained"] == 2
    assert len(Rows(prepared.folder, "train")) == 1


def test_cuts_are_counted_and_rows_without_answer_left_out(config: Make, write_rows: WriteRows):
    rows = [pair("short"), pair("short", "long" * 99), pair("long" * 99)]
    prepared = prepare_data(config(write_rows(rows), max_length=64))
    stream = prepared.report["streams"]["train"]
    assert (stream["read"], stream["truncated"], stream["untrained"]) == (3, 2, 1)
    assert stream["longest"] > 400
    assert Rows(prepared.folder, "train").lengths.tolist()[1] == 64
    assert prepared_dir(config(write_rows(rows), max_length=64)) is None


@pytest.mark.parametrize("rows", [{"text": "{}"}, {"prompt": "p", "completion": "{}"}])
def test_a_row_of_max_length_fits_and_one_token_more_is_cut(config: Make, write_rows: WriteRows, rows: dict):
    last = list(rows)[-1]
    others = len(Rows(prepare_data(config(write_rows([rows | {last: "x"}]))).folder, "train")[0].input_ids) - 1
    made = [rows | {last: "x" * (64 - others + more)} for more in (-1, 0, 1)]
    prepared = prepare_data(config(write_rows(made), max_length=64))
    stream = prepared.report["streams"]["train"]
    assert Rows(prepared.folder, "train").lengths.tolist() == [63, 64, 64]
    assert (stream["truncated"], stream["longest"]) == (1, 65)
    ends = [TOKENIZER.decode(row.input_ids).rstrip().endswith("<|im_end|>") for row in Rows(prepared.folder, "train")]
    assert ends[:2] == [True, True]


@pytest.mark.slow
def test_an_unread_field_in_any_row_stops_the_preparation(config: Make, write_rows: WriteRows):
    train = write_rows([pair(str(i)) for i in range(700)] + [pair("a") | {"sytem": "be brief"}, pair("b") | {"id": 1}])
    said = r"sytem \(.*rows.jsonl:701; did you mean system\?\), id \(.*:702\).*Try: 'data.ignore_fields=\[sytem,id\]'"
    with pytest.raises(ValueError, match=said):
        prepare_data(config(train))
    assert prepared_dir(config(train)) is None
    kept = prepare_data(config(train, ignore_fields=["id"], fields={"system": "sytem"}))
    assert "be brief" in texts(kept.folder, "train")[-2]
    left_out = prepare_data(config(train, ignore_fields=["id", "sytem"]))
    assert "be brief" not in texts(left_out.folder, "train")[-2]


def test_a_field_name_that_no_row_has_is_reported(config: Make, write_rows: WriteRows):
    train = write_rows([pair("a") | {"id": 1}, pair("b")])
    with pytest.raises(ValueError, match=r"data.fields: no row has sys. Try: 'data.fields={}'"):
        prepare_data(config(train, ignore_fields=["id"], fields={"system": "sys"}))
    prepared = prepare_data(config(train, ignore_fields=["id", "source"]))
    assert prepared.report["notes"] == ["data.ignore_fields: no row has source"]


def test_unread_fields_of_both_splits_are_reported_at_once(config: Make, write_rows: WriteRows):
    train, held_out = write_rows([pair("a") | {"one": 1}]), write_rows([pair("b") | {"two": 2}], "held.jsonl")
    with pytest.raises(ValueError, match=r"two \(.*held.jsonl:1\), one \(.*rows.jsonl:1\)"):
        prepare_data(config(train, eval=str(held_out)))


def test_a_bad_row_does_not_stop_for_its_unread_fields(config: Make, write_rows: WriteRows):
    train = write_rows([pair("a"), {"error": "timeout"}, pair("b")])
    prepared = prepare_data(config(train, max_bad_fraction=0.5))
    assert prepared.report["streams"]["train"]["bad"] == 1


def test_plain_text_is_trained_whole(config: Make, write_rows: WriteRows):
    (row,) = Rows(prepare_data(config(write_rows([{"text": "plain words"}]))).folder, "train")
    assert TOKENIZER.decode(row.input_ids) == "plain words<|im_end|>"
    assert row.trained.all()


def test_template_none_joins_prompt_and_completion(config: Make, write_rows: WriteRows):
    (row,) = Rows(prepare_data(config(write_rows([pair("2+2=", "4")]), chat_template="none")).folder, "train")
    assert TOKENIZER.decode(row.input_ids) == "2+2=4<|im_end|>"
    assert row.trained.tolist() == [False] * 4 + [True] * 2


def test_a_template_file_is_used(config: Make, write_rows: WriteRows, tmp_path: Path):
    (tmp_path / "own.jinja").write_text("{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}")
    asked = config(write_rows([pair("a", "b")]), chat_template=str(tmp_path / "own.jinja"))
    assert texts(prepare_data(asked).folder, "train") == ["[user]a<|im_end|>[assistant]b<|im_end|>"]


@pytest.mark.slow
def test_a_template_always_prints_the_fixed_day(config: Make, write_rows: WriteRows, tmp_path: Path):
    dated = "{{ strftime_now('%d %b %Y') }} {% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    (tmp_path / "own.jinja").write_text(dated)
    asked = config(write_rows([pair("a", "b")]), chat_template=str(tmp_path / "own.jinja"))
    prepared = prepare_data(asked)
    assert texts(prepared.folder, "train") == ["26 Jul 2024 a<|im_end|>b<|im_end|>"]
    assert prepared.report["notes"] == [
        "the chat template prints the current date: data.seed_date=2024-07-26 is used instead"
    ]
    other = prepare_data(asked.changed({"data.seed_date": "2026-01-02"}))
    assert texts(other.folder, "train") == ["02 Jan 2026 a<|im_end|>b<|im_end|>"]
    assert other.folder != prepared.folder
    assert prepare_data(config(write_rows([pair("a", "b")]))).report["notes"] == []


def test_a_template_that_hides_its_spans_is_refused_first(config: Make, write_rows: WriteRows, tmp_path: Path):
    (tmp_path / "own.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    asked = config(write_rows([pair("a", "b")]), chat_template=str(tmp_path / "own.jinja"))
    with pytest.raises(TemplateRefused):
        prepare_data(asked)
    assert [path for path in (tmp_path / "cache" / "data").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "data.train=.* has no rows"),
        ("no\njson\n", r"none of the first 2 rows can be read\. .*:1: line: is not JSON"),
        ('{"a": 1}\n', "the rows have a, which fits no format"),
    ],
)
def test_a_file_without_usable_rows_is_refused(config: Make, tmp_path: Path, content: str, reason: str):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ValueError, match=reason):
        prepare_data(config(tmp_path / "a.jsonl"))


@pytest.mark.slow
def test_eight_preparers_make_one_result(config: Make, write_rows: WriteRows, tmp_path: Path):
    asked = config(write_rows([pair(f"question {i}", "answer " * 20) for i in range(3000)]), eval=0.1)
    program = (
        "import json, sys; from distft.config import Config; from distft.data.stage import prepare_data\n"
        "prepared = prepare_data(Config.of(json.load(sys.stdin)))\n"
        "print(json.dumps([str(prepared.folder), prepared.reused]))"
    )
    processes = []
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True)
        assert process.stdin
        process.stdin.write(json.dumps(asked.values))
        process.stdin.close()
        processes.append(process)
    while any(process.poll() is None for process in processes):
        if folder := prepared_dir(asked):
            assert len(Rows(folder, "train")) + len(Rows(folder, "eval")) == 3000
        time.sleep(0.02)
    results = [json.loads(process.stdout.read()) for process in processes if process.stdout]
    assert len({folder for folder, _ in results}) == 1
    assert sum(not reused for _, reused in results) == 1
    folders = [path for path in (tmp_path / "cache" / "data").iterdir() if path.is_dir()]
    assert [str(folder) for folder in folders] == [results[0][0]]


def test_prepared_data_is_a_function_of_its_key(config: Make, write_rows: WriteRows, tmp_path: Path):
    asked = config(write_rows([pair(f"question {i}") for i in range(50)]), eval=0.2)
    first = prepare_data(asked)
    second = prepare_data(asked.changed({"cache_dir": str(tmp_path / "other")}))
    assert first.folder.name == second.folder.name
    for name in ("train-00000.arrow", "eval-00000.arrow"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def test_trained_tokens_are_counted_from_the_second_token(config: Make, write_rows: WriteRows):
    rows = Rows(prepare_data(config(write_rows([{"text": "abc"}]))).folder, "train")
    assert np.array_equal(rows.num_targets, [3])  # b, c and the end; nothing predicts a


def example(*texts: str) -> Example:
    return Example(
        tuple(Segment(role, text, False) for role, text in zip(("prompt", "completion"), texts, strict=False))
    )


@pytest.mark.slow
@given(st.text())
def test_content_ignores_spacing_case_and_unicode_form(text: str):
    other = unicodedata.normalize("NFD", f"  {text}\n").replace(" ", "  ")
    assert content_id(example(text, "A b")) == content_id(example(other, "a  B"))


def test_roles_are_part_of_the_content():
    assert content_id(example("a b", "c")) != content_id(example("a", "b c"))
    assert content_id(example("a", "b")) != content_id(example("b", "a"))


def test_a_fraction_holds_out_its_share_and_seeds_differ():
    names = [str(number) for number in range(20_000)]
    held_out = [{name for name in names if split_position(name, seed) < 0.1} for seed in (0, 1)]
    assert all(1_850 < len(chosen) < 2_150 for chosen in held_out)
    assert len(held_out[0] & held_out[1]) < 300


def test_added_rows_do_not_change_the_split_of_others():
    assert split_position("same", 3) == split_position("same", 3)


def test_a_threshold_also_refuses_prepared_data(config: Make, write_rows: Callable[..., Path]):
    train = write_rows([{"prompt": "a", "completion": "b"}] * 3 + [{"prompt": "a"}] * 9)
    for _ in range(2):
        with pytest.raises(ConfigError) as error:
            ensure_prepared(config(train))
        lines = error.value.messages
        assert lines[0].startswith("data.max_bad_fraction=0.0: 9 of 12 rows of data.train are bad")
        assert lines[1:6] == [f"{train}:{line}: completion: is missing" for line in range(4, 9)]
        assert lines[6].startswith("and 4 more, all in ")
        assert len(Path(lines[6].removeprefix("and 4 more, all in ")).read_text().splitlines()) == 9
    assert ensure_prepared(config(train, max_bad_fraction=0.75)).reused


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"tiny": False, "path": "someone/model"}, "someone/model .*cannot be fetched"),
        ({"tokenizer": "someone/tokenizer"}, "someone/tokenizer .*cannot be fetched"),
        ({"tiny": False, "path": "/nowhere/model"}, "model.path=/nowhere/model is neither a folder nor a hub id"),
    ],
)
def test_a_missing_model_is_refused_with_a_fix(
    config: Make, write_rows: Callable[..., Path], model: dict[str, Any], reason: str
):
    asked = config(write_rows([{"text": "a"}]))
    asked = asked.changed({f"model.{name}": value for name, value in model.items()})
    with pytest.raises(ConfigError, match=reason):
        ensure_prepared(asked)


TALK = [{"role": role, "content": f"{role} {i}"} for i in range(4) for role in ("user", "assistant")]


def lengths_of(config: Make, train: Path, **data: Any) -> tuple[list[int], dict[str, Any]]:
    prepared = prepare_data(config(train, **data))
    return Rows(prepared.folder, "train").lengths.tolist(), prepared.report["streams"]["train"]


@pytest.mark.parametrize(
    ("truncate", "wanted", "counted"),
    [
        ("cut", [99, 100, 100], "truncated"),
        ("drop", [99, 100], "too_long"),
        ("split", [99, 100, 100], "split"),  # the token that is left is no target
    ],
)
def test_one_definition_of_fit_for_every_kind_of_truncation(
    config: Make, write_rows: WriteRows, truncate: str, wanted: list[int], counted: str
):
    empty = len(TOKENIZER("<|im_start|>user\np<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n")["input_ids"])
    train = write_rows([pair("p", "x" * (length - empty)) for length in (99, 100, 101)])
    lengths, stream = lengths_of(config, train, max_length=100, truncate=truncate)
    assert lengths == wanted
    assert {name: stream[name] for name in ("truncated", "too_long", "split", "shortened") if stream[name]} == {
        counted: 1
    }
    assert stream["longest"] == 101


def test_a_split_row_keeps_all_its_tokens(config: Make, write_rows: WriteRows):
    train = write_rows([{"text": "".join(chr(97 + i % 26) for i in range(95))}])
    prepared = prepare_data(config(train, max_length=40, truncate="split"))
    rows = list(Rows(prepared.folder, "train"))
    assert [len(row.input_ids) for row in rows] == [40, 40, 16]
    joined = np.concatenate([row.input_ids for row in rows])
    assert TOKENIZER.decode(joined) == "".join(chr(97 + i % 26) for i in range(95)) + "<|im_end|>"
    assert len(set(Rows(prepared.folder, "train").ids)) == 1  # so that no split divides them


def test_the_oldest_turns_go_first(config: Make, write_rows: WriteRows):
    train = write_rows([{"messages": [{"role": "system", "content": "short"}, *TALK]}])
    prepared = prepare_data(config(train, max_length=120, truncate="drop_turns"))
    (text,) = texts(prepared.folder, "train")
    assert "short" in text and "user 1" not in text and "user 2" in text and text.endswith("assistant 3<|im_end|>\n")
    assert prepared.report["streams"]["train"]["shortened"] == 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"chosen": "a", "rejected": "b", "prompt": "p"}, "rows of format preference .* are for model.task=preference"),
        ({"prompt": "p", "completion": "c", "label": True}, "rows of format kto .* are for model.task=preference"),
        ({"text": "t", "label": "spam"}, "rows of format classification .*Try: data.format=text"),
        ({"text": "t", "label": 0.5}, "rows of format regression .* are for model.task=regression"),
    ],
)
def test_rows_for_another_task_are_not_trained_on_as_text(config: Make, write_rows: WriteRows, row: dict, said: str):
    with pytest.raises(ConfigError, match=said):
        ensure_prepared(config(write_rows([row] * 3)))


def test_weights_of_turns_and_rows_reach_the_shards(config: Make, write_rows: WriteRows):
    turns = [TALK[0], TALK[1] | {"weight": 0.5}, TALK[2], TALK[3]]
    train = write_rows([{"messages": turns, "weight": 3}, {"messages": TALK[:2]}, {"messages": TALK[:2], "weight": 0}])
    prepared = prepare_data(config(train))
    weighted, plain = Rows(prepared.folder, "train")
    assert weighted.weights is not None and plain.weights is None
    assert sorted({*weighted.weights[weighted.trained].tolist()}) == [1.5, 3.0]
    assert not weighted.weights[~weighted.trained].any()
    answer = len("assistant 0") + 1
    assert Rows(prepared.folder, "train").target_weight.tolist() == [4.5 * answer, answer]
    assert prepared.report["streams"]["train"]["untrained"] == 1


def test_tokens_per_character_are_reported(config: Make, write_rows: WriteRows):
    stream = prepare_data(config(write_rows([{"text": "abcd"}, {"text": "é" * 8}]))).report["streams"]["train"]
    assert (stream["tokens"], stream["characters"]) == (4 + 1 + 16 + 1, 12)


def test_a_prompt_template_makes_rows_of_any_columns(config: Make, write_rows: WriteRows, tmp_path: Path):
    train = write_rows([{"a": 1, "b": 2, "sum": 3}, {"a": None, "b": 2, "sum": 2}])
    (tmp_path / "ask.jinja").write_text("{{ a }} + {{ b }}?")
    asked = {"fields": {"completion": "sum_text"}, "max_bad_fraction": 0.5}
    train.write_text(train.read_text().replace('"sum": 3', '"sum_text": "3"').replace('"sum": 2', '"sum_text": "2"'))
    for template in ("{{ a }} + {{ b }}?", str(tmp_path / "ask.jinja")):
        prepared = prepare_data(config(train, prompt_template=template, **asked))
        assert texts(prepared.folder, "train") == [
            "<|im_start|>user\n1 + 2?<|im_end|>\n<|im_start|>assistant\n3<|im_end|>\n"
        ]
        assert "a: is missing or null" in prepared.report["streams"]["train"]["first_bad"][0]


def test_keys_that_the_template_does_not_read_are_errors(config: Make, write_rows: WriteRows):
    turns = [TALK[0], TALK[1] | {"reasoning_content": "hm", "wieght": 0}]
    said = r"messages\[\].reasoning_content \(.*rows.jsonl:1; the chat template does not read it.*did you mean weight\?"
    with pytest.raises(ConfigError, match=said):
        ensure_prepared(config(write_rows([{"messages": turns}])))
    kept = prepare_data(config(write_rows([{"messages": turns}]), ignore_fields=["reasoning_content", "wieght"]))
    assert len(Rows(kept.folder, "train")) == 1
