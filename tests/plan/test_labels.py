"""A run is named after the model and the rows that it loads."""

from pathlib import Path

import pytest

from distft.config.schema import Model
from distft.plan.labels import data_label, model_label


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2_135m"),  # what the word's own YAML names
        ("mistralai/Ministral-8B", "Ministral-8B"),
        ("/x/my-model", "my-model"),
        ("/x/my-model/", "my-model"),
        ("/x/mein modell (1)", "mein-modell-1"),
        ("/hub/models--org--Some-3B/snapshots/0123456789abcdef0123456789abcdef01234567", "Some-3B"),
        ("/x/runs/first/final", "final"),
        ("/x/" + 80 * "a", 48 * "a"),
    ],
)
def test_a_model_is_named_after_what_is_loaded(path: str, label: str):
    assert model_label(Model(path=path), "smollm2_135m") == label


def test_a_tiny_model_is_named_after_its_choice():
    assert model_label(Model(path="/x/my-model", tiny=True), "gpt2") == "gpt2"


def test_a_runs_export_is_named_by_the_run(tmp_path: Path):
    (tmp_path / "first" / "final").mkdir(parents=True)
    (tmp_path / "first" / "config.yaml").touch()
    assert model_label(Model(path=str(tmp_path / "first" / "final")), "gpt2") == "first"


@pytest.mark.parametrize(
    ("train", "label"),
    [
        ("/x/mine.jsonl", "mine"),
        (["/x/a.b.jsonl.gz", "/x/c.csv"], "a.b"),
        ("HuggingFaceH4/no_robots", "no_robots"),
        ("/x/parts/*.parquet", "parts"),
        ([{"path": "/x/weighted.csv"}], "weighted"),
        ("???", "files"),
        (None, "files"),
    ],
)
def test_rows_are_named_by_their_first_file(train: object, label: str):
    assert data_label(train, "files") == label
