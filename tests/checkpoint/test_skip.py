"""A window of rows is skipped by what the newest checkpoint says of where to read on."""

import os
from pathlib import Path

import pytest

from distft.checkpoint.choose import skip_rows
from distft.checkpoint.format import read_manifest, step_dir, write_index, write_manifest
from distft.checkpoint.retention import latest
from distft.data.order import Base, base_of

READS = {"data": "d", "shards": None, "seed": 0, "batch_rows": 4, "batch_tokens": None}


def save(checkpoints: Path, step: int, row: int, resume: str = "auto") -> None:
    step_dir(checkpoints, step).mkdir(parents=True)
    body = {"step": step, "next_row": row, "reads": READS, "base_step": 0, "base_row": 0, "resume": resume}
    write_manifest(step_dir(checkpoints, step), body)
    write_index(checkpoints, {*(2, 4)} & set(range(step + 1)))


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(tmp_path: Path):
    assert latest(tmp_path) is None and skip_rows(tmp_path, "auto", 3, 12) is None


def test_a_resume_from_the_newest_continues_after_the_window(tmp_path: Path):
    save(tmp_path, 2, 8)
    save(tmp_path, 4, 16)
    assert base_of(read_manifest(step_dir(tmp_path, 4)), READS) == Base(0, 0)
    skip_rows(tmp_path, "auto", 6, 24)
    manifest = read_manifest(step_dir(tmp_path, 4))
    assert base_of(manifest, READS) == Base(4, 24)
    assert manifest["skipped"] == [{"after_step": 4, "to_step": 6, "rows": [16, 24]}]
    assert base_of(read_manifest(step_dir(tmp_path, 2)), READS) == Base(0, 0), "older ones are what they were"
    skip_rows(tmp_path, "auto", 5, 28)
    assert [each["rows"] for each in read_manifest(step_dir(tmp_path, 4))["skipped"]] == [[16, 24], [24, 28]]


def test_a_rewritten_manifest_survives_a_power_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path, 2, 8)
    synced: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")) or fsync(file))
    skip_rows(tmp_path, "auto", 3, 12)
    folder = step_dir(tmp_path, 2)
    assert [Path(each).name for each in synced] == [".manifest.json.new", folder.name], "its bytes, then its name"
    assert read_manifest(folder)["next_row"] == 12


def test_a_restarted_run_ignores_its_abandoned_history(tmp_path: Path):
    save(tmp_path, 4, 16)
    assert skip_rows(tmp_path, "never", 2, 8) is None and skip_rows(tmp_path, "/elsewhere/step-00000009", 2, 8) is None
    save(tmp_path, 2, 8, resume="never")
    write_index(tmp_path, {2, 4})
    found = skip_rows(tmp_path, "never", 3, 12)
    assert found and found["step"] == 2


def test_rows_are_read_on_in_the_order_that_the_checkpoint_was_made_in(tmp_path: Path):
    save(tmp_path, 2, 8)
    manifest = read_manifest(step_dir(tmp_path, 2))
    assert base_of(manifest, READS | {"order": 1}) == Base(0, 0), "what an older version has frozen"
    assert base_of(manifest, READS | {"order": 2}) == Base(2, 0), "another order is read from its beginning"
