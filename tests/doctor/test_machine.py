"""What a process may use follows from its limits, which are real here: cgroups, affinity, ulimit, a small tmpfs.

An unwritable folder is named before the run.
Installed packages are compared with pyproject.toml.
torch is imported in a separate process: a missing, broken or hanging one is reported, and the other checks run.
"""

import os
import resource
import subprocess
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest

from distft.doctor.finding import Ended, ask_program
from distft.doctor.machine import (
    bounds,
    check_compilers,
    check_cores,
    check_deepspeed,
    check_folder,
    check_memory,
    check_open_files,
    check_packages,
    check_python,
    check_shared_memory,
    check_torch,
    core_limit,
    kind_of_disk,
    memory_limit,
)
from tests.doctor.asked import ask_check
from tests.support.small_disk import fill, small_disk

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


def test_memory_is_the_available_memory() -> None:
    [found] = check_memory()
    assert "GiB are free" in found.seen


def test_a_cgroup_with_little_memory_is_a_warning() -> None:
    with cgroup("memory", limit_in_bytes=512 * MIB) as folder:
        join = ["sh", "-c", f'echo $$ > {folder}/cgroup.procs; exec "$0" "$@"']
        [found] = ask_check("machine", "check_memory", through=join)
    assert found.state == "warning"
    assert "the cgroup allows 0.5 GiB" in found.seen
    assert "--mem=" in found.remedy


@pytest.mark.slow
def test_a_cgroup_with_half_a_cores_time_is_a_warning() -> None:
    with cgroup("cpu", cfs_period_us=100000, cfs_quota_us=50000) as folder:
        join = ["sh", "-c", f'echo $$ > {folder}/cgroup.procs; exec "$0" "$@"']
        [found] = ask_check("machine", "check_cores", through=join)
    assert found.state == "warning"
    assert "the time of 0.5" in found.seen
    assert "OMP_NUM_THREADS=1" in found.remedy


def test_cgroup_v2_limits_of_any_parent_apply(tmp_path: Path) -> None:
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


@pytest.mark.slow
def test_cores_are_counted_by_affinity() -> None:
    one = min(os.sched_getaffinity(0))
    [found] = ask_check("machine", "check_cores", start=lambda: os.sched_setaffinity(0, {one}))
    assert found.state == "ok" and found.seen.startswith(f"1 of {os.cpu_count()} usable")
    assert [each.state for each in check_cores()] == ["ok"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("soft", "hard", "state", "remedy"),
    [(1024, 4096, "warning", "ulimit -n 4096"), (512, 512, "warning", "hard limit"), (4096, 4096, "ok", "")],
)
def test_a_low_open_file_limit_is_a_warning_with_a_fix(soft: int, hard: int, state: str, remedy: str) -> None:
    lower = (soft, hard)
    [found] = ask_check("machine", "check_open_files", start=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, lower))
    assert found.state == state
    assert f"is {soft}" in found.seen
    assert remedy in found.remedy


def test_an_open_file_limit_at_its_maximum_is_fine() -> None:
    [found] = check_open_files()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert (found.state == "ok") == (soft == hard or soft >= 65536)


def test_the_size_of_shared_memory_is_reported() -> None:
    [found] = check_shared_memory()
    assert "GiB are free in /dev/shm" in found.seen


def test_little_shared_memory_is_a_warning(tmp_path: Path) -> None:
    with small_disk(tmp_path / "shm", 64 * MIB) as folder:
        [found] = check_shared_memory(folder)
    assert found.state == "warning" and "0.06 of 0.06 GiB" in found.seen and "--shm-size" in found.remedy


def test_missing_shared_memory_is_a_problem(tmp_path: Path) -> None:
    [found] = check_shared_memory(tmp_path / "shm")
    assert found.state == "problem"


def test_compilers_are_found_or_reported(require, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require("g++"), require("ninja")
    assert [found.state for found in check_compilers()] == ["ok"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [found.remedy for found in check_compilers()] == ["apt-get install g++", "pip install ninja"]


def test_a_writable_folder_is_fine_and_unchanged(tmp_path: Path) -> None:
    [found] = check_folder("tmp", tmp_path, lasts=False)
    assert found.state == "ok" and str(tmp_path) in found.seen
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_be_created_is_not_created(tmp_path: Path) -> None:
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


@pytest.mark.slow
def test_another_users_folder_is_a_problem(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("becoming another user needs root")
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(0o755) if str(folder).startswith("/tmp/") else None
    [found] = ask_check("machine", "check_folder", "runs_dir", str(tmp_path), through=["setpriv", "--reuid=65534"])
    assert found.state == "problem" and "Permission denied" in found.seen


@pytest.mark.slow
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


def test_the_file_system_is_that_of_the_deepest_mount(tmp_path: Path) -> None:
    assert kind_of_disk(Path("/proc/self")) == "proc"
    with small_disk(tmp_path / "a b", 2 * MIB) as disk:
        (disk / "inside").mkdir()
        assert kind_of_disk(disk / "inside") == "tmpfs"
    assert kind_of_disk(tmp_path) != "tmpfs" or kind_of_disk(Path("/tmp")) == "tmpfs"


def test_this_environment_is_within_its_bounds(checkout: Path) -> None:
    [python, packages] = [*check_python(), *check_packages()]
    assert python.state == packages.state == "ok"
    assert f"torch {version('torch')} (>=" in packages.seen
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    assert bounds() == (project["requires-python"], project["dependencies"])


def test_the_bounds_of_a_wheel_come_from_its_metadata(tmp_path: Path) -> None:
    python, needed = bounds(tmp_path / "pyproject.toml")
    assert ">=3.11" in python
    assert any(each.startswith("torch") for each in needed)
    assert not any("extra" in each for each in needed)


def test_packages_out_of_bounds_are_named_with_the_fix() -> None:
    old, missing = check_packages(["rich>=999", "numpy>=2.0", "no-such-package>=1.2"])
    assert old.state == missing.state == "problem"
    assert old.seen.startswith("rich ") and old.seen.endswith("distft needs >=999")
    assert old.remedy.endswith("-m pip install 'rich>=999'")
    assert missing.seen == "no-such-package is missing, distft needs >=1.2"


def test_an_old_python_is_a_problem() -> None:
    [found] = check_python(">=99.1")
    assert found.state == "problem" and "distft needs >=99.1" in found.seen


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Gives `broken(name, text)`: puts a module in the way of the installed one, for the processes that are started."""
    monkeypatch.syspath_prepend(tmp_path)
    import os

    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    return lambda name, text: (tmp_path / f"{name}.py").write_text(text)


@pytest.mark.slow
def test_torch_and_deepspeed_are_described() -> None:
    torch, accelerator = check_torch()
    assert torch.state == accelerator.state == "ok" and "collectives: gloo" in torch.seen
    [deepspeed] = check_deepspeed()
    assert "cpu_adam" in deepspeed.seen


@pytest.mark.slow
def test_devices_that_torch_does_not_see_are_a_problem(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"nvidia{number}").touch()
    torch, accelerator = check_torch(tmp_path)
    assert accelerator.state == "problem"
    build = torch.seen.partition("built for ")[2].partition(";")[0]
    assert accelerator.seen == f"none seen by torch, 4 plugged in, which is built for {build}"
    assert build == "CPU" or build.startswith(("CUDA 1", "ROCm"))
    assert "pytorch.org" in accelerator.remedy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("raise ModuleNotFoundError(\"No module named 'torch'\")", "No module named 'torch'"),
        ("raise OSError('libcudart.so.12: cannot open shared object file')", "libcudart.so.12"),
        ("import os; os.kill(os.getpid(), 11)", "ended by SIGSEGV"),
    ],
)
def test_a_broken_library_is_reported(broken, text: str, seen: str) -> None:
    for name, check in (("torch", check_torch), ("deepspeed", check_deepspeed)):
        broken(name, text)
        [found] = check()
        assert found.state == "problem" and seen in found.seen, found
        assert "pip install" in found.remedy
        broken(name, "")


@pytest.mark.slow
def test_a_hanging_library_import_is_abandoned(broken) -> None:
    broken("torch", "import time; time.sleep(60)")
    with pytest.raises(Ended, match="no answer within 1 s"):
        ask_program("distft.doctor.libraries", "torch", seconds=1)
