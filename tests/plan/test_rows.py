"""Rows, steps and tokens are exact from prepared data, and marked as estimates before."""

import json
from pathlib import Path

import numpy as np
import pytest

from distft.config import Config, compose
from distft.data.shards import Row, ShardWriter
from distft.plan.rows import extent

LENGTHS = [5, 7, 9, 11, 13]


def config_of(rows: Path, *overrides: str) -> Config:
    return compose(["model.tiny=true", f"data.train={rows}", *overrides])


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "p" * 20, "completion": "c" * 40}) + "\n")
    file.write_text(file.read_text() * 100)
    return file


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "prepared"
    folder.mkdir()
    for split, lengths in (("train", LENGTHS), ("eval", [4, 4])):
        writer = ShardWriter(folder, split)
        for number, length in enumerate(lengths):
            writer.add(Row(np.zeros(length, np.int32), np.ones(length, bool)), str(number))
        writer.close()
    monkeypatch.setattr("distft.plan.rows.prepared_dir", lambda values: folder)
    return folder


def test_prepared_data_is_counted_to_the_token(rows: Path, prepared: Path):
    reads = extent(config_of(rows, "train.global_batch_size=2", "train.micro_batch_size=2"))
    assert (reads.rows, reads.eval_rows, reads.steps, reads.rows_read) == (5, 2, 3, 5)
    assert (reads.tokens, reads.estimated, reads.data_dir) == (sum(LENGTHS), False, prepared)


def test_the_first_of_steps_and_epochs_ends_the_run(rows: Path, prepared: Path):
    sizes = ["train.global_batch_size=2", "train.micro_batch_size=2"]
    assert extent(config_of(rows, *sizes, "train.epochs=2")).steps == 5
    assert extent(config_of(rows, *sizes, "train.epochs=2", "train.max_steps=3")).steps == 3
    assert extent(config_of(rows, *sizes, "train.epochs=null", "train.max_steps=9")).rows_read == 18


def test_steps_by_tokens_follow_the_lengths(rows: Path, prepared: Path):
    reads = extent(config_of(rows, "train.global_batch_tokens=13"))
    assert reads.tokens == sum(LENGTHS) and 4 <= reads.steps <= 5


def test_a_step_smaller_than_a_row_is_refused(rows: Path, prepared: Path):
    with pytest.raises(ValueError, match=r"Try: train.global_batch_tokens=13"):
        extent(config_of(rows, "train.global_batch_tokens=12"))


def test_unprepared_rows_are_estimated_and_marked(rows: Path, tmp_path: Path):
    reads = extent(config_of(rows, f"cache_dir={tmp_path}/cache", "data.eval=0.1", "train.global_batch_size=4"))
    assert (reads.rows, reads.eval_rows, reads.steps, reads.estimated) == (90, 10, 23, True)
    assert 0 < reads.tokens < 90 * 60


def test_unprepared_held_out_files_are_counted_apart(rows: Path, tmp_path: Path):
    reads = extent(config_of(rows, f"cache_dir={tmp_path}/cache", f"data.eval={rows}"))
    assert (reads.rows, reads.eval_rows, reads.estimated) == (100, 100, True)


def test_missing_rows_are_unknown(tmp_path: Path, rows: Path):
    reads = extent(config_of(rows, f"cache_dir={tmp_path}/cache", "data.train=org/rows", "train.max_steps=7"))
    assert (reads.rows, reads.steps, reads.tokens, reads.estimated) == (0, 7, 0, True)
