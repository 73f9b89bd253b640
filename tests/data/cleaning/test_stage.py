"""Cleaning in the data stage: what leaves, what stays, where it is listed, and that nothing else depends on it."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distft.config import Config, ConfigError
from distft.data import blocks, json_lines
from distft.data.cleaning.rules import pii
from distft.data.key import data_key, key_parts
from distft.data.shards import Rows
from distft.data.stage import Prepared, ensure_prepared, prepare_data
from distft.data.tokenize import byte_tokenizer
from distft.run import read_json
from tests.data.cleaning.planted_rows import words

Make = Callable[..., Config]
WriteRows = Callable[..., Path]
TOKENIZER = byte_tokenizer()


def row(seed: int, length: int = 30) -> dict[str, str]:
    choose = random.Random(seed)
    return {"prompt": " ".join(words(choose, 9)) + "?", "completion": " ".join(words(choose, length)) + "."}


def with_rules(config: Config, **rules: Any) -> Config:
    """Returns the config with rules on: `pii={"action": "redact"}`."""
    changes = {f"clean.{name}.enabled": True for name in rules if name != "groups"}
    changes |= {f"clean.{name}.{key}": value for name, options in rules.items() for key, value in options.items()}
    return config.changed(changes)


def texts(prepared: Prepared, split: str) -> list[str]:
    return [TOKENIZER.decode(each.input_ids) for each in Rows(prepared.folder, split)]


def left_out(prepared: Prepared) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (prepared.folder / "dropped.jsonl").read_text().splitlines()]


def test_every_row_left_out_is_listed_with_rule_and_content(config: Make, write_rows: WriteRows):
    made = [row(i) for i in range(40)]
    made[7] = made[3]
    made[12] = {"prompt": "Why?", "completion": "I'm sorry, but I can't help with that."}
    made[20] = {"prompt": "no answer"}
    path = write_rows(made)
    with path.open("a") as file:
        file.write('{"prompt": ')
    prepared = prepare_data(
        with_rules(config(path, max_bad_fraction=1.0), exact_duplicates={}, refusals={}, pii={"action": "tag"})
    )
    listed = left_out(prepared)
    assert [(each["line"], each["rule"]) for each in listed] == [
        (8, "exact_duplicates"),
        (13, "refusals"),
        (21, "malformed"),
        (41, "malformed"),
    ]
    assert [each["row"] for each in listed] == [made[7], made[12], made[20], None]
    assert listed[0]["reason"] == f"the same pair as {path}:4" and listed[0]["source"] == str(path)
    assert "is not JSON" in listed[3]["reason"]
    assert len(Rows(prepared.folder, "train")) == 37
    stream = prepared.report["streams"]["train"]
    assert (stream["read"], stream["bad"], stream["dropped"]) == (41, 2, 2)


@pytest.mark.slow
def test_a_thousand_broken_rows_are_listed_and_good_ones_stay(config: Make, tmp_path: Path):
    choose, lines, good = random.Random(0), [], []
    broken = ['{"prompt": "p"', '{"prompt": "p"}', "null", '{"prompt": 1, "completion": "x"}', '{"a": "\\ud800"}']
    for i in range(2000):
        if i % 2:
            lines.append(choose.choice(broken))
        else:
            good.append(i + 1)
            lines.append(json.dumps(row(i)))
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    prepared = prepare_data(with_rules(config(path, max_bad_fraction=1.0), exact_duplicates={}))
    listed = left_out(prepared)
    assert [each["line"] for each in listed] == [line for line in range(1, 2001) if line not in set(good)]
    assert all(each["rule"] == "malformed" and each["reason"] for each in listed)
    assert len(Rows(prepared.folder, "train")) == 1000


def test_without_rules_nothing_changes(config: Make, write_rows: WriteRows):
    asked = config(write_rows([row(i % 5) for i in range(20)]), eval=0.2)
    assert "clean" not in key_parts(asked)
    prepared = prepare_data(asked)
    assert sum(split["rows"] for split in prepared.report["splits"].values()) == 20
    assert left_out(prepared) == []


def test_redacted_and_repaired_text_is_what_is_trained_on(config: Make, write_rows: WriteRows):
    made = [row(1), {"prompt": "Mail?", "completion": "Write to jo@firma.de, at the caf\u00c3\u00a9."}]
    plain, tagged, redacted = (
        prepare_data(each)
        for each in (
            config(write_rows(made)),
            with_rules(config(write_rows(made)), pii={"action": "tag"}, encoding={"action": "tag"}),
            with_rules(config(write_rows(made)), pii={"action": "redact"}, encoding={"action": "repair"}),
        )
    )
    assert texts(tagged, "train") == texts(plain, "train")
    assert "Write to <EMAIL>, at the café." in texts(redacted, "train")[1]
    report = json.loads((redacted.folder / "cleaning.json").read_text())["rules"]
    assert report["pii"]["found"] == 1 and report["pii"]["labels"] == {"email": 1}
    for prepared in (tagged, redacted):  # the report never shows what it warns of
        assert "jo@firma.de" not in (prepared.folder / "cleaning.json").read_text()


def test_a_rule_that_only_tags_leaves_the_rows(config: Make, write_rows: WriteRows):
    made = [row(1), row(1), {"prompt": "Why?", "completion": "As an AI language model, I cannot."}]
    prepared = prepare_data(
        with_rules(config(write_rows(made)), refusals={"action": "tag"}, exact_duplicates={"action": "tag"})
    )
    assert len(Rows(prepared.folder, "train")) == 3 and left_out(prepared) == []
    rules = json.loads((prepared.folder / "cleaning.json").read_text())["rules"]
    assert {name: (rule["found"], rule["dropped"]) for name, rule in rules.items()} == {
        "refusals": (1, 0),
        "exact_duplicates": (1, 0),
    }
    assert rules["refusals"]["examples"][0]["line"] == 3


def test_the_rule_that_comes_first_drops_a_row_and_all_count_it(config: Make, write_rows: WriteRows):
    refusal = {"prompt": "Why?", "completion": "I'm sorry, but I can't help with that."}
    prepared = prepare_data(
        with_rules(config(write_rows([row(1), refusal, refusal])), refusals={}, exact_duplicates={})
    )
    rules = json.loads((prepared.folder / "cleaning.json").read_text())["rules"]
    assert (rules["refusals"]["dropped"], rules["exact_duplicates"]["found"]) == (2, 0)
    assert len(Rows(prepared.folder, "train")) == 1


@pytest.mark.parametrize(("overlap", "rows"), [("auto", 5), ("drop", 5), ("warn", 8), ("stop", 8)])
def test_leaked_rows_leave_training_or_stop_the_launch(config: Make, write_rows: WriteRows, overlap: str, rows: int):
    held_out = [row(100 + i) for i in range(3)]
    longer = [{"prompt": "Go on.", "completion": f"Well: {each['completion'].upper()} and so on."} for each in held_out]
    path = str(write_rows(held_out, "test.jsonl"))
    own = with_rules(config(write_rows([*(row(i) for i in range(5)), *longer]), eval=path, overlap=overlap), leakage={})
    benchmark = with_rules(own.changed({"data.eval": None}), leakage={"against": [path]})
    for asked in (own, benchmark):
        if overlap == "stop":
            with pytest.raises(ConfigError, match=r"data.overlap=stop: 3 rows of data.train are also held out"):
                ensure_prepared(asked)
        prepared = prepare_data(asked)
        assert prepared.report["streams"]["train"]["overlap"] == 3
        assert len(Rows(prepared.folder, "train")) == rows
        assert [each["rule"] for each in left_out(prepared)] == ["leakage"] * (8 - rows)


def test_a_short_row_that_is_held_out_too_is_listed(config: Make, write_rows: WriteRows):
    short = {"prompt": "a", "completion": "b"}
    held_out = write_rows([short], "test.jsonl")
    asked = config(write_rows([row(1), short]), eval=str(held_out), overlap="drop")
    assert [(each["rule"], each["line"], each["row"]) for each in left_out(prepare_data(asked))] == [
        ("overlap", 2, short)
    ]


@pytest.mark.parametrize("by", ["prompt", "field", "near"])
def test_rows_that_belong_together_are_in_one_split(config: Make, write_rows: WriteRows, by: str):
    made = []
    for i in range(200):
        base = row(i // 4, length=60)
        if by == "prompt":
            made.append({"prompt": base["prompt"], "completion": row(1000 + i)["completion"]})
        elif by == "field":
            made.append(row(i) | {"conversation_id": i // 4})
        else:
            made.append({"prompt": base["prompt"], "completion": f"{base['completion']} {i}"})
    rules: dict[str, Any] = {
        "prompt": {"groups": {"by_prompt": True}},
        "field": {"groups": {"field": "conversation_id"}},
        "near": {"near_duplicates": {"action": "tag"}},
    }[by]
    prepared = prepare_data(with_rules(config(write_rows(made), eval=0.2), **rules))
    keys = [text.partition("user\n")[2].partition("?")[0] for text in texts(prepared, "eval")]
    assert 4 <= len(keys) <= 100 and len(keys) % 4 == 0
    if by != "field":
        trained = " ".join(texts(prepared, "train"))
        assert not any(key in trained for key in keys)


@pytest.mark.parametrize(("overlap", "dropped"), [("auto", True), ("warn", False)])
def test_rows_that_contain_texts_of_a_held_out_fraction_leave(
    config: Make, write_rows: WriteRows, overlap: str, dropped: bool
):
    made = [row(i) for i in range(60)]
    path = write_rows([*made, *({"prompt": "Go on.", "completion": each["completion"].upper()} for each in made)])
    asked = with_rules(config(path, eval=0.2, overlap=overlap, max_length=2048), leakage={})
    prepared = prepare_data(asked)
    held_out = {text.split("assistant")[1].casefold() for text in texts(prepared, "eval")}
    leaks = [text for text in texts(prepared, "train") if text.split("assistant")[1].casefold() in held_out]
    listed = [each for each in left_out(prepared) if each["rule"] == "leakage"]
    stream = prepared.report["streams"]["train"]
    found = read_json(prepared.folder / "cleaning.json")["rules"]["leakage"]
    assert bool(leaks) is not dropped and bool(listed) is dropped
    assert stream["overlap"] == found["found"] == len(listed if dropped else leaks) > 5
    assert found["dropped"] == len(listed) == stream["dropped"]
    assert len(texts(prepared, "train")) + len(texts(prepared, "eval")) == 120 - len(listed)
    assert found["examples"][0]["reason"].startswith("contains ")


@pytest.mark.slow
def test_one_and_two_processes_clean_alike(config: Make, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(json_lines, "LINES", 16)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 32)
    made = [row(i % 90, length=40) for i in range(200)]
    made[50] = {"prompt": "Why?", "completion": "I can't help with that. jo@firma.de"}
    asked = with_rules(
        config(write_rows(made), eval=0.2),
        exact_duplicates={}, near_duplicates={}, refusals={}, pii={"action": "redact"}, groups={"by_prompt": True},
    )  # fmt: skip

    def contents(num_proc: int) -> dict[str, bytes]:
        cache = f"{asked.cache_dir} {num_proc}"
        prepared = prepare_data(asked.changed({"cache_dir": cache, "data.num_proc": num_proc}))
        files = sorted(prepared.folder.iterdir())
        return {path.name: path.read_bytes() for path in files if path.name not in ("report.json", "timing.json")}

    one, two = contents(1), contents(2)
    assert one == two
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 10**6)
    monkeypatch.setattr(json_lines, "LINES", 10**6)
    assert contents(3) == one


def test_options_versions_and_files_of_rules_are_in_the_key(
    config: Make, write_rows: WriteRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own = write_rows([row(9)], "test.jsonl")
    (tmp_path / "words.txt").write_text("one\n")
    rules = {"pii": {}, "toxicity": {"words": str(tmp_path / "words.txt")}, "leakage": {"against": [str(own)]}}
    base = with_rules(config(write_rows([row(1)])), **rules)
    keys = [data_key(base)]
    assert data_key(base.changed({"clean.length.outlier": 3.0})) == keys[0], "of a rule that is off"
    changes: list[dict[str, Any]] = [
        {"clean.pii.action": "drop"},
        {"clean.pii.kinds": ["email"]},
        {"clean.refusals.enabled": True},
        {"data.overlap": "warn"},
        {"clean.groups.by_prompt": True},
    ]
    keys += [data_key(base.changed(change)) for change in changes]
    (tmp_path / "words.txt").write_text("two\n")
    keys.append(data_key(base))
    write_rows([row(8)], "test.jsonl")
    keys.append(data_key(base))
    monkeypatch.setattr(pii, "VERSION", pii.VERSION + 1)
    keys.append(data_key(base))
    assert len(set(keys)) == len(keys)


def test_a_missing_package_is_named_before_rows_are_read(
    config: Make, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pii, "NEEDS", ("no_such_package",))
    with pytest.raises(ConfigError, match=r"clean.pii.enabled=true needs no_such_package. Try: pip install"):
        ensure_prepared(with_rules(config(write_rows([row(1)])), pii={}))


def test_when_every_row_is_dropped_the_error_names_cleaning(config: Make, write_rows: WriteRows):
    asked = with_rules(config(write_rows([row(1), row(2)])), quality={"min_words": 1000})
    with pytest.raises(ConfigError, match=r"no row is left of 2: 2 were dropped by clean"):
        ensure_prepared(asked)
