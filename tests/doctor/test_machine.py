"""What a process may use is told by its own limits, made real here: cgroups, affinity, ulimit, a small tmpfs."""

import os
import resource
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distft.doctor.machine import (
    check_compilers,
    check_cores,
    check_memory,
    check_open_files,
    check_shared_memory,
    core_limit,
    memory_limit,
)
from tests.doctor.asked import ask_check
from tests.support.small_disk import small_disk

MIB = 2**20


@contextmanager
def cgroup(controller: str, **limits: int) -> Iterator[Path]:
    """Gives a cgroup of version 1 with these limits; skips where none can be made."""
    folder = Path("/sys/fs/cgroup") / controller / f"distft-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
        for name, value in limits.items():
            (folder / f"{controller}.{name}").write_text(str(value))
    except OSError:
        pytest.skip("making a cgroup needs root and version 1")
    try:
        yield folder
    finally:
        folder.rmdir()


def test_memory_is_what_the_machine_has_left() -> None:
    [found] = check_memory()
    assert "GiB are free" in found.seen


def test_a_cgroup_with_little_memory_is_a_warning() -> None:
    with cgroup("memory", limit_in_bytes=512 * MIB) as folder:
        join = ["sh", "-c", f'echo $$ > {folder}/cgroup.procs; exec "$0" "$@"']
        [found] = ask_check("machine", "check_memory", through=join)
    assert found.state == "warning"
    assert "the cgroup allows 0.5 GiB" in found.seen
    assert "--mem=" in found.remedy


def test_a_cgroup_with_half_a_cores_time_is_a_warning() -> None:
    with cgroup("cpu", cfs_period_us=100000, cfs_quota_us=50000) as folder:
        join = ["sh", "-c", f'echo $$ > {folder}/cgroup.procs; exec "$0" "$@"']
        [found] = ask_check("machine", "check_cores", through=join)
    assert found.state == "warning"
    assert "the time of 0.5" in found.seen
    assert "OMP_NUM_THREADS=1" in found.remedy


def test_limits_of_version_two_hold_from_any_folder_above(tmp_path: Path) -> None:
    own = tmp_path / "sys/fs/cgroup/job_7/step_0"
    own.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/job_7/step_0\n")
    (own / "memory.max").write_text("max\n")
    (own.parent / "memory.max").write_text(f"{8 * 2**30}\n")
    (own.parent / "memory.current").write_text(f"{6 * 2**30}\n")
    (own.parent / "memory.stat").write_text(f"anon 5\ninactive_file {2**30}\n")
    (own.parent / "cpu.max").write_text("150000 100000\n")
    assert memory_limit(tmp_path) == (8 * 2**30, 5 * 2**30)
    assert core_limit(tmp_path) == 1.5


def test_no_limit_is_no_limit(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None
    assert core_limit(tmp_path) is None


def test_cores_are_those_of_the_affinity() -> None:
    one = min(os.sched_getaffinity(0))
    [found] = ask_check("machine", "check_cores", start=lambda: os.sched_setaffinity(0, {one}))
    assert found.state == "ok" and found.seen.startswith(f"1 of {os.cpu_count()} usable")
    assert [each.state for each in check_cores()] == ["ok"]


@pytest.mark.parametrize(
    ("soft", "hard", "state", "remedy"),
    [(1024, 4096, "warning", "ulimit -n 4096"), (512, 512, "warning", "hard limit"), (4096, 4096, "ok", "")],
)
def test_few_open_files_are_a_warning_with_what_helps(soft: int, hard: int, state: str, remedy: str) -> None:
    lower = (soft, hard)
    [found] = ask_check("machine", "check_open_files", start=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, lower))
    assert found.state == state
    assert f"is {soft}" in found.seen
    assert remedy in found.remedy


def test_as_many_open_files_as_are_allowed_are_fine() -> None:
    [found] = check_open_files()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert (found.state == "ok") == (soft == hard or soft >= 65536)


def test_the_room_in_shared_memory_is_told() -> None:
    [found] = check_shared_memory()
    assert "GiB are free in /dev/shm" in found.seen


def test_little_shared_memory_is_a_warning(tmp_path: Path) -> None:
    with small_disk(tmp_path / "shm", 64 * MIB) as folder:
        [found] = check_shared_memory(folder)
    assert found.state == "warning" and "0.06 of 0.06 GiB" in found.seen and "--shm-size" in found.remedy


def test_missing_shared_memory_is_a_problem(tmp_path: Path) -> None:
    [found] = check_shared_memory(tmp_path / "shm")
    assert found.state == "problem"


def test_compilers_are_found_or_named(require, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require("g++"), require("ninja")
    assert [found.state for found in check_compilers()] == ["ok"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [found.remedy for found in check_compilers()] == ["apt-get install g++", "pip install ninja"]
