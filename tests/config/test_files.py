"""A missing path is distinguished from a hub id, and the nearest existing one is suggested."""

from pathlib import Path

import pytest

from distft.config.check import is_hub_id, missing_files, nearest_path


def config(**data: object) -> dict[str, object]:
    model = {"tiny": False, "path": "gpt2", "tokenizer": None}
    whole = {"train": "org/rows", "eval": 0.1, "chat_template": "auto"} | data
    return {"model": model, "data": whole, "checkpoint": {"resume": "auto"}}


def errors_of(values: dict[str, object]) -> dict[str, str]:
    return dict(missing_files(values))


def test_hub_ids_are_not_looked_up_as_paths():
    assert errors_of(config()) == {}


@pytest.mark.parametrize("value", ["rows.jsonl", "rows.parquet", "x/rows.csv.gz", "/data/rows", "~/rows", "./rows"])
def test_a_value_that_looks_like_a_path_must_exist(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert list(errors_of(config(train=value))) == ["data.train"]


def test_a_typo_in_a_local_folder_is_not_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id("models/mien")
    values = config()
    values["model"] = {"tiny": False, "path": "models/mien", "tokenizer": None}
    assert str(tmp_path / "models" / "mine") in errors_of(values)["model.path"]
    values["model"] = {"tiny": True, "path": "models/mien", "tokenizer": None}
    assert errors_of(values) == {}


def test_patterns_need_one_file(tmp_path: Path):
    (tmp_path / "a.jsonl").touch()
    assert errors_of(config(train=f"{tmp_path}/*.jsonl")) == {}
    assert errors_of(config(train=f"{tmp_path}/*.csv")) != {}


def test_the_suggested_path_exists(tmp_path: Path):
    (tmp_path / "rows.jsonl").touch()
    assert nearest_path(tmp_path / "row.jsonl") == str(tmp_path / "rows.jsonl")
    assert nearest_path(tmp_path / "lost" / "rows.jsonl") == str(tmp_path / "rows.jsonl")
    assert nearest_path(tmp_path / "quite-another-name") is None
