"""Checkpoint folders and indexes on disks that fail or lag."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from distft.checkpoint.format import INDEX, MANIFEST, read_index, step_dir, write_index
from distft.checkpoint.retention import Retention, begin, retain

NOBODY = 65_534


def checkpoints_of(folder: Path, there: set[int], listed: set[int]) -> Path:
    for step in there:
        step_dir(folder, step).mkdir()
        (step_dir(folder, step) / MANIFEST).touch()
    write_index(folder, listed)
    return folder


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_a_failed_index_write_deletes_its_temporary_file(tmp_path: Path) -> None:
    (tmp_path / INDEX).mkdir()  # so the rename onto it fails
    with pytest.raises(OSError):
        write_index(tmp_path, {1})
    assert names(tmp_path) == {INDEX}


def test_the_next_save_deletes_the_leftovers_of_a_kill(tmp_path: Path) -> None:
    checkpoints_of(tmp_path, {1}, {1})
    for name in (".step-00000002.partial", ".step-00000001.older", ".step-00000000.leaving"):
        (tmp_path / name / "below").mkdir(parents=True)
    for name in (f".{INDEX}.new", ".latest.new", ".best.new"):
        (tmp_path / name).symlink_to("nowhere")
    partial = begin(tmp_path, 2)
    assert names(tmp_path) == {INDEX, "step-00000001", partial.name}
    assert names(partial) == set()


def test_an_uncommitted_step_does_not_count_for_retention(tmp_path: Path) -> None:
    checkpoints_of(tmp_path, {1, 2, 3}, {1, 2, 3, 4, 5})
    assert [each.name for each in retain(tmp_path, Retention(2), set())] == [".step-00000001.leaving"]
    assert read_index(tmp_path) == [2, 3]


def test_one_without_its_manifest_is_deleted_in_its_turn(tmp_path: Path) -> None:
    """Listed no more before it is gone, it would stay for ever."""
    checkpoints_of(tmp_path, {1, 2, 3}, {1, 2, 3})
    (step_dir(tmp_path, 2) / MANIFEST).unlink()
    retain(tmp_path, Retention(2), set())
    assert read_index(tmp_path) == [2, 3]
    retain(tmp_path, Retention(1), set())
    assert not step_dir(tmp_path, 2).exists() and read_index(tmp_path) == [3]


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that this process may pass through and not open, as others' are."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "mine").mkdir(mode=0o777)
        (Path(name) / "mine").chmod(0o777)
        Path(name).chmod(0o311)
        was = os.geteuid()
        if was == 0:
            os.seteuid(NOBODY)
        try:
            yield Path(name)
        finally:
            os.seteuid(was)
            Path(name).chmod(0o700)


def test_a_run_may_lie_below_a_folder_that_it_cannot_open(closed: Path) -> None:
    with pytest.raises(PermissionError):
        os.listdir(closed)
    assert begin(closed / "mine" / "run" / "checkpoints", 1).is_dir()
