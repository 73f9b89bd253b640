"""What this machine lacks for a run is reported before anything else is done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distft.config import ConfigError, compose
from distft.launch import stages
from distft.launch.stages import check_devices, check_writable, with_name
from distft.machines import Build, Plugged


def test_an_unwritable_run_folder_is_named_first(tmp_path: Path):
    check_writable(tmp_path / "new" / "runs")
    (tmp_path / "file").touch()
    for folder, place in (("file/runs", f"{tmp_path}/file"), ("x" * 300, "x" * 300)):
        with pytest.raises(
            ConfigError, match=rf"runs_dir={tmp_path}/{folder}: .*{place} cannot be written to: .*Try: "
        ):
            check_writable(tmp_path / folder)
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.slow
def test_a_folder_of_another_user_is_named():
    program = "import os, sys, pathlib; from distft.launch.stages import check_writable; os.setuid(65534); "
    program += "check_writable(pathlib.Path(sys.argv[1]))"
    folder = "/usr/share/runs"
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=False)
    assert f"runs_dir={folder}: /usr/share cannot be written to: Permission denied. Try: " in done.stderr


@pytest.fixture
def config(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    return lambda *more: compose(
        ["model.tiny=true", f"data.train={tmp_path}/rows.jsonl", f"runs_dir={tmp_path}/runs", *more]
    )


def test_devices_unsupported_by_the_torch_build_are_an_error(config, monkeypatch: pytest.MonkeyPatch):
    check_devices(config())
    monkeypatch.setattr(stages, "plugged_in", lambda: Plugged("NVIDIA", 2))
    monkeypatch.setattr(stages, "torch_build", lambda: Build("2.13.0+cpu", None, None))
    with pytest.raises(ConfigError, match=r"launcher=local: 2 NVIDIA devices are plugged in, .* Try: a CUDA build"):
        check_devices(config())
    check_devices(config("launcher=slurm"))


def test_unnamed_runs_of_one_second_get_folders_of_their_own(config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("time.strftime", lambda form: "20261129-010203")
    folders = [with_name(config())[0].path for _ in range(3)]
    assert [each.name.rpartition("010203")[2] for each in folders] == ["", "-2", "-3"]
    assert all(each.is_dir() for each in folders), "so another process has not one of them"


@pytest.mark.slow
def test_an_empty_run_folder_is_removed(config, tmp_path: Path):
    program = "from distft.launch.stages import with_name; from distft.config import compose; import sys; "
    program += "path = with_name(compose(sys.argv[1:]))[0].path; assert path.is_dir(); print(path)"
    overrides = ["model.tiny=true", f"data.train={tmp_path}/rows.jsonl", f"runs_dir={tmp_path}/runs"]
    done = subprocess.run([sys.executable, "-c", program, *overrides], capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).exists()
