"""`python -m distft.doctor` exits with 0 without problems, 1 with a problem, 2 for wrong overrides."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.warm import python


def doctor(
    folder: Path, *overrides: str, program: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"} | variables
    command = [str(program or python()), "-m", "distft.doctor", *overrides]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_healthy_machine_ends_with_0_and_is_written_to_a_file(tmp_path: Path) -> None:
    done = doctor(tmp_path, "cache_dir=cache", "out=found.json", "--json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "" and json.loads(done.stdout) == found
    assert {each["state"] for each in found} <= {"ok", "warning"}
    assert {"python", "torch", "memory", "runs_dir", "hub", "all-reduce"} <= {each["check"] for each in found}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.json"]


@pytest.fixture
def without_torch(tmp_path: Path) -> Path:
    """The Python of an environment that has everything but torch."""
    here, there = Path(sys.prefix), tmp_path / "env"
    packages = there / Path(sysconfig.get_path("purelib")).relative_to(here)
    packages.mkdir(parents=True)
    for each in Path(sysconfig.get_path("purelib")).iterdir():
        if not each.name.startswith(("torch", "functorch")):
            (packages / each.name).symlink_to(each)
    (there / "bin").mkdir()
    (there / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (there / "pyvenv.cfg").write_text((here / "pyvenv.cfg").read_text())
    return there / "bin" / "python"


@pytest.mark.slow
def test_without_torch_the_other_checks_run(tmp_path: Path, without_torch: Path) -> None:
    lacking = {"PATH": str(tmp_path), "HF_TOKEN": "hf_0123456789abcdef"}
    done = doctor(tmp_path, "launcher=slurm", "cache_dir=cache", program=without_torch, **lacking)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "PROBLEM packages: torch is missing" in done.stdout
    assert "PROBLEM torch: cannot be imported: ModuleNotFoundError: No module named 'torch'" in done.stdout
    assert "PROBLEM slurm: sbatch, srun" in done.stdout
    assert "ok  memory" in done.stdout or "warning memory" in done.stdout
    assert done.stdout.index("ok  python") < done.stdout.index("PROBLEM")
    assert "0123456789" not in done.stdout + done.stderr


@pytest.mark.slow
def test_wrong_overrides_end_with_2(tmp_path: Path) -> None:
    done = doctor(tmp_path, "launcher.nods=2", "out=a", "out=b")
    assert done.returncode == 2
    done = doctor(tmp_path, "launcher.nods=2")
    assert done.returncode == 2 and "launcher.nods" in done.stderr and done.stdout == ""
