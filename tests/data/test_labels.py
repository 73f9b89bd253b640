"""Labels of rows: classes fixed by the training rows, listed bad rows, and the tokens that are read."""

import json
from pathlib import Path
from typing import Any

import pytest

from distft.config import ConfigError, compose
from distft.data.shards import Rows
from distft.data.stage import Prepared, ensure_prepared
from distft.data.tokenize import byte_tokenizer
from distft.run import read_json


def prepared(folder: Path, task: str, train: list[Any], held_out: list[Any], *overrides: str) -> Prepared:
    for name, rows in (("train", train), ("eval", held_out)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [f"data.{name}={folder / f'{name}.jsonl'}" for name in ("train", "eval")]
    given = ["model.tiny=true", f"model.task={task}", f"cache_dir={folder / 'cache'}", "data.max_bad_fraction=1"]
    return ensure_prepared(compose([*given, *files, *overrides]))


def labels(found: Prepared, part: str) -> list[list[float]]:
    return [[] if row.labels is None else row.labels.tolist() for row in Rows(found.folder, part)]


def texts(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]


def test_classes_are_numbered_by_their_names(tmp_path: Path) -> None:
    found = prepared(tmp_path, "sequence_classification", texts("red", "blue", "red", "green"), texts("green"))
    manifest = read_json(found.folder / "manifest.json")["labels"]
    assert manifest == {
        "problem_type": "single_label_classification",
        "count": 3,
        "names": ["blue", "green", "red"],
    }
    assert labels(found, "train") == [[2.0], [0.0], [2.0], [1.0]] and labels(found, "eval") == [[1.0]]


def test_numbers_of_classes_keep_their_order(tmp_path: Path) -> None:
    found = prepared(tmp_path, "sequence_classification", texts(10, 9, 2), texts(9))
    assert read_json(found.folder / "manifest.json")["labels"]["names"] == ["2", "9", "10"]
    assert labels(found, "train") == [[2.0], [1.0], [0.0]]


def test_a_held_out_label_without_training_rows_is_a_bad_row(tmp_path: Path) -> None:
    found = prepared(tmp_path, "sequence_classification", texts("a", "b"), texts("a", "new", "b"))
    assert labels(found, "eval") == [[0.0], [1.0]]
    [line] = (found.folder / "bad_rows.txt").read_text().splitlines()
    assert line.endswith("eval.jsonl:2: label: new is not a label of the training rows (a, b)")
    assert found.report["streams"]["eval"]["bad"] == 1
    [dropped] = map(json.loads, (found.folder / "dropped.jsonl").read_text().splitlines())
    assert (dropped["line"], dropped["rule"]) == (2, "malformed")


@pytest.mark.slow
def test_lists_of_classes_become_marks(tmp_path: Path) -> None:
    found = prepared(tmp_path, "sequence_classification", texts(["a", "c"], ["b"]), texts(["b", "a"]), "loss=bce")
    assert labels(found, "train") == [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]] and labels(found, "eval") == [[1.0, 1.0, 0.0]]
    assert read_json(found.folder / "manifest.json")["labels"]["problem_type"] == "multi_label_classification"


@pytest.mark.slow
def test_values_are_kept_and_must_be_as_many_in_every_row(tmp_path: Path) -> None:
    found = prepared(tmp_path, "regression", texts(3, -0.5), texts([1.0, 2.0], 4))
    assert labels(found, "train") == [[3.0], [-0.5]] and labels(found, "eval") == [[4.0]]
    with pytest.raises(ConfigError, match="rows have 1 to 2 values as label"):
        prepared(tmp_path, "regression", texts(3, [1, 2]), texts(1))


def test_rows_of_one_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the rows have one label, a, and there is nothing to learn"):
        prepared(tmp_path, "sequence_classification", texts("a", "a"), texts("a"))


def test_a_word_is_read_at_its_first_token(tmp_path: Path) -> None:
    train = [{"words": ["Anna", "went", "to", "Rome"], "tags": ["PER", "O", None, "LOC"]}]
    train += [{"words": ["Rome"], "tags": ["LOC"]}]
    short = ("data.max_length=8", "data.max_truncated_fraction=1")
    held_out = [{"words": ["to", "Anna", "Rome"], "tags": ["O", "PER", "LOC"]}]
    found = prepared(tmp_path, "token_classification", train, held_out, *short)
    row = Rows(found.folder, "train")[0]
    read = [byte_tokenizer().decode([token]) for token in row.input_ids[row.trained]]
    assert read == ["A", "w"] and row.labels is not None and row.labels.tolist() == [2.0, 1.0], "the rest is cut"
    [row] = Rows(found.folder, "eval")
    assert row.num_targets == 2


def test_rows_weigh_as_they_say(tmp_path: Path) -> None:
    rows = [row | {"weight": weight} for row, weight in zip(texts("a", "b"), (2.0, 0.5), strict=True)]
    found = prepared(tmp_path, "sequence_classification", rows, texts("a"))
    assert Rows(found.folder, "train").target_weight.tolist() == [2.0, 0.5]
    assert Rows(found.folder, "train", class_weights=[1.0, 4.0]).target_weight.tolist() == [2.0, 2.0]


def test_rows_of_another_task_are_refused_with_advice(tmp_path: Path) -> None:
    chat = [{"prompt": "a", "completion": "b"}]
    with pytest.raises(ConfigError, match="needs those of classification. Try: model.task=causal_lm"):
        prepared(tmp_path, "sequence_classification", chat, chat)
