"""A folder that cannot take a run is named before the run finds out."""

import os
import subprocess
from pathlib import Path

import pytest

from distft.doctor.machine import check_folder, kind_of_disk
from tests.doctor.asked import ask_check
from tests.support.small_disk import fill, small_disk

MIB = 2**20


def test_a_folder_that_takes_files_is_fine_and_stays_as_it_was(tmp_path: Path) -> None:
    [found] = check_folder("tmp", tmp_path, lasts=False)
    assert found.state == "ok" and str(tmp_path) in found.seen
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_be_made_is_not_made(tmp_path: Path) -> None:
    [found] = check_folder("runs_dir", tmp_path / "a" / "b", lasts=False)
    assert found.state == "ok" and "(not made yet)" in found.seen
    assert not (tmp_path / "a").exists()


def test_a_file_in_its_place_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    [found] = check_folder("runs_dir", tmp_path / "runs" / "mine")
    assert found.state == "problem" and f"{tmp_path / 'runs'} is a file" in found.seen


def test_a_read_only_disk_is_a_problem(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4096 * MIB) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        [found] = check_folder("runs_dir", disk)
    assert found.state == "problem" and "Read-only file system" in found.seen
    assert found.remedy.startswith("another runs_dir=")


def test_another_users_folder_is_a_problem(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("becoming another user needs root")
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(0o755) if str(folder).startswith("/tmp/") else None
    [found] = ask_check("machine", "check_folder", "runs_dir", str(tmp_path), through=["setpriv", "--reuid=65534"])
    assert found.state == "problem" and "Permission denied" in found.seen


def test_a_small_disk_is_a_problem_and_one_in_memory_a_warning(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64 * MIB) as disk:
        [small] = check_folder("runs_dir", disk)
        fill(disk)
        [full] = check_folder("runs_dir", disk)
    assert small.state == full.state == "problem"
    assert small.seen.endswith("0.1 GiB free on tmpfs: under 1 GiB")
    assert "No space left on device" in full.seen
    with small_disk(tmp_path / "large", 2048 * MIB) as disk:
        [lost] = check_folder("runs_dir", disk)
        [fine] = check_folder("tmp", disk, lasts=False)
    assert lost.state == "warning" and "tmpfs, which uses memory and is lost on reboot" in lost.seen
    assert fine.state == "ok" and fine.seen.endswith("on tmpfs")


def test_the_kind_of_disk_is_that_of_the_deepest_mount(tmp_path: Path) -> None:
    assert kind_of_disk(Path("/proc/self")) == "proc"
    with small_disk(tmp_path / "a b", 2 * MIB) as disk:
        (disk / "inside").mkdir()
        assert kind_of_disk(disk / "inside") == "tmpfs"
    assert kind_of_disk(tmp_path) != "tmpfs" or kind_of_disk(Path("/tmp")) == "tmpfs"
