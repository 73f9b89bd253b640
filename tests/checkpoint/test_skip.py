"""A window of rows is skipped by what the newest checkpoint says of where to read on."""

from pathlib import Path

from distft.checkpoint.format import step_dir
from distft.checkpoint.index import write_index
from distft.checkpoint.keep import latest
from distft.checkpoint.manifest import read_manifest, write_manifest
from distft.checkpoint.rows import base_of
from distft.checkpoint.skip import skip_rows
from distft.data.steps import Base

READS = {"data": "d", "shards": None, "seed": 0, "batch_rows": 4, "batch_tokens": None}


def save(checkpoints: Path, step: int, row: int) -> None:
    step_dir(checkpoints, step).mkdir(parents=True)
    body = {"step": step, "next_row": row, "reads": READS, "base_step": 0, "base_row": 0}
    write_manifest(step_dir(checkpoints, step), body)
    write_index(checkpoints, {*(2, 4)} & set(range(step + 1)))


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(tmp_path: Path):
    assert latest(tmp_path) is None and skip_rows(tmp_path, "auto", 3, 12) is None


def test_whoever_resumes_from_the_newest_reads_on_behind_the_window(tmp_path: Path):
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
