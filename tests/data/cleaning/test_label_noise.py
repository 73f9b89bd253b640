"""Label noise: planted wrong labels are found, and nothing is found where a model cannot learn labels."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distft.config import Config, ConfigError
from distft.data import blocks, json_lines
from distft.data.cleaning.rules import label_noise
from distft.data.cleaning.view import Text, View
from distft.data.stage import ensure_prepared, prepare_data
from distft.run import read_json
from tests.data.cleaning.planted_rows import WORDS, words

pytestmark = pytest.mark.slow

Make = Callable[..., Config]
WriteRows = Callable[..., Path]
TOPICS = {name: WORDS[60 * i : 60 * i + 60] for i, name in enumerate(("work", "town", "war"))}


def labelled(count: int, share: float, seed: int = 0) -> tuple[list[dict[str, Any]], list[int]]:
    """Returns rows whose words show the label, half of them words of any topic; and the rows with a wrong label."""
    choose = random.Random(seed)
    rows = []
    for _ in range(count):
        label = choose.choice(sorted(TOPICS))
        text = [choose.choice(TOPICS[label]) for _ in range(8)] + words(choose, 8)
        choose.shuffle(text)
        rows.append({"text": " ".join(text), "label": label})
    wrong = sorted(choose.sample(range(count), round(share * count)))
    for row in wrong:
        rows[row]["label"] = choose.choice([name for name in sorted(TOPICS) if name != rows[row]["label"]])
    return rows, wrong


def compared(rows: Sequence[dict[str, Any]], **options: Any) -> tuple[str, dict[int, str]]:
    """Returns the remark of the rule, and the rows that it finds with their reasons."""
    rule = label_noise.Rule(**options)
    views = [View("f", i, (Text("text", row["text"], False),), label=row["label"]) for i, row in enumerate(rows)]
    remark, *found = rule.compare(rule.sign(views), np.ones(len(views), dtype=bool))
    assert isinstance(remark, str)
    return remark, {each[0]: each[2] for each in found if not isinstance(each, str)}


def test_planted_wrong_labels_are_found():
    rows, wrong = labelled(900, 0.1)
    remark, found = compared(rows)
    hits = len(found.keys() & set(wrong))
    assert hits / len(wrong) >= 0.75 and hits / len(found) >= 0.95, (hits, len(found), len(wrong))
    assert remark.startswith("clean.label_noise: a linear model of the text finds the label of 8")
    row = next(iter(found.keys() & set(wrong)))
    assert found[row].startswith(f"the label is {rows[row]['label']}, ") and " is more likely (0." in found[row]


def test_a_higher_threshold_finds_a_part_of_the_rows():
    rows, wrong = labelled(600, 0.1)
    _, low = compared(rows, threshold=0.0)
    _, high = compared(rows, threshold=0.8)
    assert high.keys() < low.keys() and len(high) > 0
    assert len(high.keys() & set(wrong)) / len(high) >= len(low.keys() & set(wrong)) / len(low)


def test_labels_that_no_model_can_learn_are_not_judged():
    rows, _ = labelled(300, 0.0)
    choose = random.Random(1)
    remark, found = compared([row | {"label": choose.choice("abc")} for row in rows])
    assert found == {} and "so no row was judged" in remark


def test_rows_of_a_small_class_are_not_judged():
    rows, _ = labelled(200, 0.0)
    few = [rows[i] | {"label": "rare"} for i in range(9)]
    remark, found = compared([*rows, *few])
    assert not any(row >= 200 or "rare" in reason for row, reason in found.items())
    assert "finds the label of 9" in remark or "finds the label of 100" in remark
    remark, found = compared([*rows[:9], *few])
    assert found == {} and "fewer than two labels have 10 different texts" in remark


def test_a_repeated_wrong_label_does_not_support_itself():
    rows, _ = labelled(300, 0.0)
    wrong = rows[0] | {"label": next(name for name in sorted(TOPICS) if name != rows[0]["label"])}
    _, found = compared([*rows, *[wrong] * 20])
    assert found.keys() >= set(range(300, 320))


def test_a_model_is_trained_on_a_bounded_number_of_rows(monkeypatch: pytest.MonkeyPatch):
    rows, wrong = labelled(900, 0.1)
    monkeypatch.setattr(label_noise, "_FITTED_ROWS", 300)
    monkeypatch.setattr(label_noise, "_BATCH", 50)
    _, found = compared(rows)
    assert len(found.keys() & set(wrong)) / len(wrong) >= 0.7
    texts = np.arange(900, dtype=np.uint64)
    given = np.array([0] * 880 + [1] * 20)
    some = label_noise._spread(np.arange(900), given, texts)
    assert len(some) == 300 and np.bincount(given[some]).tolist() == [280, 20]


def with_rule(config: Config, **options: Any) -> Config:
    changes = {"clean.label_noise.enabled": True, "model.task": "sequence_classification"}
    return config.changed(changes | {f"clean.label_noise.{key}": value for key, value in options.items()})


def test_one_and_two_processes_drop_the_same_labels(
    config: Make, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(json_lines, "LINES", 16)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 64)
    rows, wrong = labelled(400, 0.1)
    asked = with_rule(config(write_rows(rows), eval=0.1), action="drop")

    def contents(num_proc: int) -> dict[str, bytes]:
        prepared = prepare_data(
            asked.changed({"cache_dir": f"{asked.cache_dir} {num_proc}", "data.num_proc": num_proc})
        )
        files = sorted(prepared.folder.iterdir())
        return {path.name: path.read_bytes() for path in files if path.name not in ("report.json", "timing.json")}

    one = contents(1)
    assert contents(2) == one
    listed = [json.loads(line) for line in one["dropped.jsonl"].splitlines()]
    lines = {each["line"] - 1 for each in listed if each["rule"] == "label_noise"}
    assert len(lines & set(wrong)) / len(wrong) >= 0.7
    assert all(each["row"] == rows[each["line"] - 1] for each in listed)


def test_the_report_shows_how_well_the_model_finds_labels(config: Make, write_rows: WriteRows):
    rows, _ = labelled(300, 0.1)
    prepared = ensure_prepared(with_rule(config(write_rows(rows))))
    found = read_json(prepared.folder / "cleaning.json")["rules"]["label_noise"]
    assert found["found"] > 10 and found["dropped"] == 0 and found["action"] == "tag"
    assert prepared.report["splits"]["train"]["rows"] == 300
    assert prepared.report["notes"][0].startswith("clean.label_noise: a linear model of the text")
    assert read_json(prepared.folder / "timing.json")["label_noise"] > 0


def test_rows_with_several_labels_are_refused_with_a_way_out(config: Make, write_rows: WriteRows):
    rows = [{"text": f"text {i}", "label": ["a", "b"][: 1 + i % 2]} for i in range(8)]
    with pytest.raises(ConfigError, match=r"rows.jsonl:1 has a list of labels.* Try: clean.label_noise=false"):
        ensure_prepared(with_rule(config(write_rows(rows))).changed({"loss": {"_target_": "distft.losses.bce.Bce"}}))
