"""The launch command on a tiny model: it runs, prints, continues, refuses, and leaks no secret."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pytest import approx
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distft.config.schema import Config, Origin
from distft.launch.__main__ import report_end
from distft.launch.stages import with_name
from distft.launchers.contract import Outcome
from distft.run import RunFolder, read_json
from distft.runtime.disk import alone
from tests.support.fake_run import assert_none_left, wait_for_rows
from tests.support.rows import write_sums
from tests.support.warm import python
from tests.trackers.test_wandb import history

pytestmark = pytest.mark.slow

CANARIES = {name: f"canary-{name.lower()}" for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder whose path needs quoting, with prompts and completions in it."""
    return write_sums(tmp_path_factory.mktemp("données (1)"))


def start(
    folder: Path, name: str, *overrides: str, processes: int = 1, program: str = "", **variables: str
) -> subprocess.Popen[str]:
    """Starts launch on a tiny model, in a Python with its imports done unless `program` is another."""
    settings = ["model=gpt2", "model.tiny=true", "data.eval=0.2", f"data.train={folder / 'rows.jsonl'}"]
    settings += [
        "train.epochs=null",
        "train.max_steps=3",
        "train.global_batch_size=4",
        "train.micro_batch_size=2",
        f"name={name}",
    ]
    settings += [f"name={name}", f"launcher.processes_per_node={processes}", f"runs_dir={folder / 'runs'}"]
    command = [program or python(), "-m", "distft.launch", *settings, f"cache_dir={folder / 'cache'}", *overrides]
    return subprocess.Popen(
        command, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    said, stderr = process.communicate(timeout=480)
    return process.returncode, said, stderr


def run_of(folder: Path, name: str) -> RunFolder:
    return RunFolder(folder / "runs" / name)


DONE = ("tracker=[wandb,tensorboard]", "tracker.wandb.mode=offline")


@pytest.fixture(scope="module")
def done(folder) -> tuple[RunFolder, str, str]:
    """A run of 3 steps on 2 processes, tracked offline, with secrets in its environment, and what it printed."""
    code, said, stderr = end(start(folder, "done", *DONE, processes=2, program=sys.executable, **CANARIES))
    assert code == 0, stderr
    return run_of(folder, "done"), said, stderr


def test_settings_in_force_are_read_back(done):
    """And the allocator's setting reaches the ranks before torch is imported there."""
    run, _, _ = done
    effective = read_json(run.path / "effective.json")
    assert effective["products"]["tf32"] is False
    assert effective["engine"]["weight_dtypes"] == ["torch.float32"] and effective["engine"]["frozen_dtypes"] == []
    variables = read_json(run.path / "nodes.json")["variables"]
    assert variables["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def lowest_of(run: RunFolder) -> dict[str, Any]:
    """Returns step and value of the lowest held-out loss in metrics.jsonl."""
    row = min(run.read_metrics("eval"), key=lambda row: row["loss"])
    return {"step": row["step"], "value": row["loss"], "metric": "loss"}


def test_a_run_folder_has_all_files_of_the_contract(done):
    run, said, _ = done
    assert run.read_status() | {"time": 0, "host": ""} == {
        "state": "completed", "step": 3, "attempt": 1, "exit_code": 0, "error": None, "time": 0, "host": "",
        "reason": None, "best": lowest_of(run),
    }  # fmt: skip
    assert run.read_status()["best"]["step"] == 3 and (run.checkpoints / "best").readlink().name == "step-00000003"
    assert [row["step"] for row in run.read_metrics("train")] == [1, 2, 3]
    assert [row["step"] for row in run.read_metrics("eval")] == [0, 3]
    assert run.read_config()["name"] == "done" and run.read_plan().world == 2
    assert "train.max_steps=3" in run.command.read_text()
    attention = read_json(run.path / "effective.json")["attention"]
    assert run.read_config()["model"]["attention"] == "auto", "the frozen config keeps the word"
    assert (attention["asked"], attention["in_force"]) == ("auto", "sdpa") and "CPU" in attention["why"]
    assert "math" in attention["sdpa"]
    assert (run.final / "config.json").is_file() and (run.path / "report.html").is_file()
    for part in ("completed", "3 of 3", "held-out loss", "tokens/s", "GiB per process", "final", "report.html"):
        assert part in said


def test_two_trackers_log_every_step_of_one_run(done):
    run, _, _ = done
    [file] = (run.path / "wandb").glob("offline-run-*/run-*.wandb")
    assert [row["_step"] for row in history(file) if "train/loss" in row] == [1, 2, 3]
    losses = EventAccumulator(str(run.path / "tensorboard")).Reload().Scalars("train/loss")
    assert [event.step for event in losses] == [1, 2, 3]
    assert [event.value for event in losses] == approx([row["loss"] for row in run.read_metrics("train")])
    [page] = file.parent.rglob("*.html")
    assert page.read_text() == (run.path / "report.html").read_text()


def test_no_third_party_output_is_printed(done):
    run, _, stderr = done
    lines = [line for line in stderr.splitlines() if not line.startswith(("prepared data", "  train:", "  eval:"))]
    assert lines[0] == f"{run.path}: 3 steps, 2 processes, logs in {run.logs / 'attempt-1'}"
    assert all(line.startswith("step ") for line in lines[1:]), lines
    for rank in (0, 1):
        assert run.rank_log(1, rank).read_text() == ""


def test_secrets_of_the_environment_reach_no_file(done):
    run, said, stderr = done
    for path in run.path.rglob("*"):
        text = path.read_bytes() if path.is_file() else b""
        assert not any(value.encode() in text for value in CANARIES.values()), path
    assert "canary" not in said + stderr


def test_a_finished_run_prints_its_result_again(done, folder):
    run, said, _ = done
    before = run.read_status()
    assert end(start(folder, "done", *DONE, processes=2)) == (0, said, "")
    assert run.read_status() == before


def test_a_changed_config_is_refused_with_its_differences(done, folder):
    code, _, stderr = end(start(folder, "done", *DONE, "optimizer.lr=0.5", processes=2))
    assert code == 2 and "Traceback" not in stderr
    assert "name=done" in stderr and "Try: another name" in stderr
    assert any(line.strip().startswith("optimizer.lr: ") and line.endswith("-> 0.5") for line in stderr.splitlines())


def test_ctrl_c_saves_and_the_same_command_continues(done, folder):
    run = run_of(folder, "cut")
    process = start(folder, "cut", "train.max_steps=4000")
    wait_for_rows(run)
    code, _, stderr = end(start(folder, "cut", "train.max_steps=4000"))
    assert code == 2 and "another launch uses" in stderr
    process.send_signal(signal.SIGINT)
    code, _, stderr = end(process)
    assert code == 75 and "saved and stopped" in stderr
    status = run.read_status()
    assert status["state"] == "preempted" and 0 < status["step"] < 4000
    assert_none_left(run)
    process = start(folder, "cut", "train.max_steps=4000")
    deadline = time.monotonic() + 60
    while run.read_status()["step"] <= status["step"]:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    run.stop.touch()
    assert end(process)[0] == 75
    assert run.read_status()["attempt"] == 2
    steps = [row["step"] for row in run.read_metrics("train")]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > status["step"]


def test_without_waiting_the_run_ends_on_its_own(done, folder):
    run = run_of(folder, "alone")
    code, said, _ = end(start(folder, "alone", "train.max_steps=2", "launcher.wait=false", "export=false"))
    assert code == 0 and f"touch {run.stop}" in said
    assert run.read_status()["state"] in ("pending", "running")
    deadline = time.monotonic() + 240
    while not is_free(run):
        assert time.monotonic() < deadline, (run.logs / "launch.log").read_text()
        time.sleep(0.2)
    assert run.read_status()["state"] == "completed"
    assert "completed" in (run.logs / "launch.log").read_text() and (run.path / "report.html").is_file()
    assert not run.final.exists(), "export=false"
    assert_none_left(run)


def is_free(run: RunFolder) -> bool:
    """Returns whether no launch holds the run."""
    with alone(run.path / ".lock") as held:
        return held


def test_a_secret_in_the_config_is_refused_first(folder):
    code, _, stderr = end(start(folder, "secret", "tracker=wandb", "tracker.entity=canary-hf_token", **CANARIES))
    assert code == 2 and "$HF_TOKEN: the config contains its value" in stderr and "canary" not in stderr
    assert not run_of(folder, "secret").path.exists()


def test_a_wrong_data_file_leaves_no_run_folder(folder):
    (folder / "bad.jsonl").write_text("no json\n" * 10)
    code, _, stderr = end(start(folder, "bad", f"data.train={folder / 'bad.jsonl'}"))
    assert code == 2 and "bad.jsonl" in stderr and "Traceback" not in stderr
    assert not run_of(folder, "bad").path.exists()


def test_an_unwritable_runs_dir_is_reported_without_traceback(folder):
    (folder / "file").write_text("")
    code, _, stderr = end(start(folder, "x", f"runs_dir={folder / 'file' / 'runs'}"))
    assert code in (1, 2) and str(folder / "file") in stderr and "Traceback" not in stderr


@pytest.mark.parametrize("there", ["no program of SLURM", "programs without a cluster"])
def test_a_missing_cluster_is_reported_before_any_write(folder, tmp_path, monkeypatch, there):
    programs = tmp_path if there == "no program of SLURM" else "/usr/bin"
    if programs != tmp_path and not shutil.which("sinfo", path=programs):
        pytest.skip("sinfo is not installed")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    code, said, stderr = end(start(folder, "slurm", "launcher=slurm", PATH=str(programs)))
    assert code == 2 and not said and "Traceback" not in stderr
    [error] = [line for line in stderr.splitlines() if "launcher=slurm: sinfo" in line]
    assert error.endswith("Try: a login node of the cluster, or launcher=local")
    assert not run_of(folder, "slurm").path.exists()


def test_a_job_is_cancelled_only_by_a_yes_at_a_terminal():
    answers = ["y\n", "Yes\n", "n\n", "\n", "\x04"]
    program = "import signal, distft.launch.__main__ as launch\n"
    program += f"print([launch.is_left_alone(signal.SIGINT) for _ in range({len(answers)})])\n"
    program += "print(launch.is_left_alone(signal.SIGTERM), launch.is_left_alone(signal.SIGHUP))"
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=terminal, stderr=terminal, stdout=subprocess.PIPE, text=True
    )
    os.write(master, "".join(answers).encode())
    said, _ = process.communicate(timeout=480)
    os.close(master)
    os.close(terminal)
    assert said.endswith("[False, False, True, True, True]\nTrue True\n")
    done = subprocess.run(
        [sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[True, True, True, True, True]\nTrue True\n", "nobody is there to be asked"


def test_the_default_name_is_model_data_and_time(tmp_path):
    choices = {"model": "gpt2", "data": "files"}
    taken = set()
    for _ in range(3):
        values = {"runs_dir": str(tmp_path), "model": {"tiny": True}, "data": {"train": "/x/mine.jsonl"}}
        run, config = with_name(Config.of(values, Origin(choices)))
        path = run.path
        assert config.name == path.name
        assert re.fullmatch(r"gpt2-mine-\d{8}-\d{6}(-\d)?", path.name)
        assert path.is_dir()
        taken.add(path)
    assert len(taken) == 3


def test_every_run_error_names_culprit_location_and_log(tmp_path, capsys):
    run = RunFolder(tmp_path / "r")
    error = {
        "rank": 3,
        "host": "node7",
        "type": "ValueError",
        "message": "why\nmore",
        "where": "a.py:7",
        "log": "r.log",
    }
    assert report_end(run, Outcome("failed", error | {"traceback": "T\n"})) == 1
    assert capsys.readouterr().err.splitlines() == [
        "T", "r failed: rank 3 on node7: ValueError: why", "at  a.py:7", "log r.log"
    ]  # fmt: skip
    error |= {"rank": None, "where": None, "log": None, "traceback": "", "message": ""}
    assert report_end(run, Outcome("failed", error, by_signal=2)) == 130
    assert capsys.readouterr().err.splitlines() == ["r failed: the run on node7: ValueError: ", f"log {run.logs}"]
