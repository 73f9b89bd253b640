"""Whole sweeps of tiny models: a failed job is named and stops no other, and the same command continues."""

import json
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from distft.config import ConfigError, compose
from distft.launch.history import check_config
from distft.run import RunFolder
from distft.sweep.multirun import multirun
from tests.support.fake_run import assert_none_left
from tests.support.rows import write_sums
from tests.support.warm import python

pytestmark = pytest.mark.slow

STEPS = 40
FUSED = ("optimizer.fused=false,true", "optimizer.foreach=null,true")  # torch refuses both at once
BAD = "003-optimizer.fused_True-optimizer.foreach_True"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_sums(tmp_path_factory.mktemp("données (1)"))


def settings(folder: Path) -> list[str]:
    """Returns what all sweeps here share: a tiny model at a low rate."""
    own = ["model=gpt2", "model.tiny=true", "data.eval=0.2", f"data.train={folder / 'rows.jsonl'}"]
    own += [
        "train.epochs=null",
        f"train.max_steps={STEPS}",
        "train.global_batch_size=4",
        "train.micro_batch_size=4",
        "schedule=constant",
    ]
    own += [f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}", "launcher.processes_per_node=1"]
    return own


def start(folder: Path, name: str, *overrides: str, at_once: int = 2) -> subprocess.Popen[str]:
    """Starts a sweep as a user does."""
    command = [python(), "-m", "distft.launch", "-m", *settings(folder), f"name={name}", *overrides]
    command += [f"launcher.jobs_at_once={at_once}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    said, output = process.communicate(timeout=480)
    return process.returncode, said, output


def status_of(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "runs" / name / "sweep_status.json").read_text())


def states(folder: Path, name: str) -> list[str]:
    return [job["state"] for job in status_of(folder, name)["jobs"]]


def attempts(folder: Path, name: str) -> list[int]:
    return [RunFolder(path.parent).read_status()["attempt"] for path in jobs_in(folder, name)]


def jobs_in(folder: Path, name: str) -> list[Path]:
    return sorted((folder / "runs" / name).glob("*/status.json"))


@pytest.fixture(scope="module")
def interrupted(folder) -> list[dict[str, Any]]:
    """What the jobs of the sweep below say when it was interrupted in its second job."""
    process = start(folder, "grid", *FUSED, at_once=1)
    second = RunFolder(folder / "runs" / "grid" / "001-optimizer.fused_False-optimizer.foreach_True")
    while second.read_status()["state"] != "running":
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, _, output = end(process)
    assert code == 75 and "The same command, with name=grid, continues it." in output
    assert_none_left(second)
    assert states(folder, "grid") == ["completed", "preempted"] + ["pending"] * 2
    return [RunFolder(file.parent).read_status() for file in jobs_in(folder, "grid")]


@pytest.fixture(scope="module")
def grid(interrupted, folder) -> tuple[Path, str, str]:
    """A sweep of 2 x 2 jobs of which one cannot be made, continued to its end, and what it printed."""
    code, said, output = end(start(folder, "grid", *FUSED))
    assert code == 1, output
    return folder / "runs" / "grid", said, output


def test_an_interrupted_sweep_repeats_no_finished_job(interrupted, grid, folder):
    after = [RunFolder(file.parent).read_status() for file in jobs_in(folder, "grid")]
    assert [status["state"] for status in interrupted] == ["completed", "preempted"] + ["pending"] * 2
    assert after[0] == interrupted[0] and 0 < interrupted[1]["step"] < STEPS
    assert [status["attempt"] for status in after] == [1, 2, 2, 2]
    for file in jobs_in(folder, "grid")[:3]:
        assert [row["step"] for row in RunFolder(file.parent).read_metrics("train")] == list(range(1, STEPS + 1))


def test_one_failure_neither_stops_nor_hides_the_others(grid, folder):
    path, said, output = grid
    assert states(folder, "grid") == ["completed"] * 3 + ["failed"]
    assert [job["run"] for job in status_of(folder, "grid")["jobs"] if job["state"] == "failed"] == [BAD]
    lines = output.splitlines()
    [failure] = [i for i, line in enumerate(lines) if line.startswith(f"{BAD} failed: RuntimeError: `fused` and")]
    assert lines[failure + 1] == f"    log {RunFolder(path / BAD).rank_log(2, 0)}"
    assert len([line for line in said.splitlines() if re.search(r"│ \d\.\d{4} ", line)]) == 3 and BAD in said
    assert "│ rank" not in said and "Each setting has one run, so this order may be chance." in said
    best = next(file.parent for file in path.glob("*/final"))
    assert f"model   {best / 'final'}\nreport  {path / 'report.html'}\n" in said


def test_a_failed_jobs_own_log_has_its_traceback(grid):
    log = RunFolder(grid[0] / BAD).rank_log(2, 0).read_text()
    assert "Traceback (most recent call last)" in log and "`fused` and `foreach` cannot be `True` together" in log


def test_the_status_file_describes_every_job(grid, folder):
    status = status_of(folder, "grid")
    assert {key: status[key] for key in ("name", "swept", "sampler")} == {
        "name": "grid", "swept": ["optimizer.fused", "optimizer.foreach"], "sampler": "grid"
    }  # fmt: skip
    assert [list(job["values"].values()) for job in status["jobs"]] == [
        [fused, foreach] for fused in (False, True) for foreach in (None, True)
    ]
    for job in status["jobs"]:
        run = RunFolder(grid[0] / job["run"])
        assert shlex.split(job["command"]) == run.read_commands()[-1] and Path(job["log"]).is_file()
        assert run.read_status()["state"] == job["state"]
        losses = [row["loss"] for row in run.read_metrics("eval")]
        assert job["objective"] == (min(losses) if job["state"] == "completed" else None)
        assert (job["reason"] is None) == (job["state"] == "completed")


def test_the_best_job_alone_is_exported(grid, folder):
    jobs = status_of(folder, "grid")["jobs"]
    best = min((job for job in jobs if job["objective"] is not None), key=lambda job: job["objective"])
    assert [path.parent.name for path in grid[0].glob("*/final")] == [best["run"]]


def test_a_jobs_command_continues_that_job(grid, folder):
    job = status_of(folder, "grid")["jobs"][1]
    before = RunFolder(grid[0] / job["run"]).read_status()
    command = [python(), *shlex.split(job["command"])[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{grid[0] / job['run']}" in done.stdout
    assert RunFolder(grid[0] / job["run"]).read_status() == before


def test_only_failed_reruns_only_the_failed_jobs(grid, folder):
    code, _, output = end(start(folder, "grid", *FUSED, "sweep.only_failed=true"))
    assert code == 1 and BAD in output
    assert attempts(folder, "grid") == [1, 2, 2, 3]
    assert states(folder, "grid") == ["completed"] * 3 + ["failed"]


def test_other_points_under_the_same_name_are_refused(grid, folder):
    code, _, output = end(start(folder, "grid", FUSED[0], "optimizer.foreach=null,false"))
    assert code == 2 and "Traceback" not in output and "Try: another name" in output
    assert attempts(folder, "grid")[:3] == [1, 2, 2]


def test_fail_fast_stops_the_other_jobs(folder):
    long = ("train.max_steps=5000", "export=false", "sweep.fail_fast=true")
    code, _, output = end(start(folder, "fast", "optimizer.fused=true", "optimizer.foreach=true,false,null", *long))
    assert code == 1 and "sweep.fail_fast=true: 000-optimizer.foreach_True failed" in output
    first, *others = states(folder, "fast")
    assert first == "failed" and set(others) <= {"pending", "preempted"}
    for file in jobs_in(folder, "fast"):
        assert_none_left(RunFolder(file.parent))


def test_a_search_finds_a_better_rate_than_the_worst_of_a_grid(grid, folder):
    swept = "optimizer.lr=tag(log,interval(1e-5,1))"
    code, _, output = end(start(folder, "search", "export=false", "sweep=optuna", "sweep.trials=6", swept))
    assert code == 0, output
    jobs = status_of(folder, "search")["jobs"]
    assert status_of(folder, "search")["sampler"] == "optuna"
    assert len({job["values"]["optimizer.lr"] for job in jobs}) == 6
    worst = max(job["objective"] for job in status_of(folder, "grid")["jobs"] if job["objective"])
    assert min(job["objective"] for job in jobs) < worst - 0.5


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["seed=0,1", "optimizer.lrr=3"], ["optimizer.lrr is not a key. Did you mean optimizer.lr?"]),
        (["seed=0,-1", "train.global_batch_size=8,9"], ["not a whole number of at", "9 is not a multiple"]),
        (["seed=-1,0", "train.global_batch_size=8,9"], ["not a whole number of at", "9 is not a multiple"]),
        (["seed=0,1", "train.global_batch_size=8,9"], ["001-seed_0-train.global_batch_size_9; 003-seed_1-train"]),
        (["train.max_steps=3,4,3"], ["002-train.max_steps_3 is the same run as 000-train.max_steps_3"]),
        (["optimizer.lr=interval(0.1,1)"], ["Try: sweep=optuna"]),
        (["seed=0,1", "data.train=no.jsonl"], ["no.jsonl"]),
        (["seed=0,1", "sweep.only_failed=true"], ["no job in"]),
        (["seed=0,1", "data.shards=[99]"], ["data.shards"]),
    ],
)
def test_errors_of_any_job_are_reported_once_before_any_write(folder, overrides, words):
    with pytest.raises(ConfigError) as caught:
        multirun([*settings(folder), "name=wrong", *overrides])
    for word in words:
        [_] = [line for line in caught.value.messages if word in line]
    assert not (folder / "runs" / "wrong").exists()


def test_jobs_with_the_same_bad_rows_are_reported_once(folder, capfd):
    (folder / "bad.jsonl").write_text("no json\n" * 10)
    with pytest.raises(SystemExit):
        multirun([*settings(folder), "name=bad", "seed=0,1", f"data.train={folder / 'bad.jsonl'}"])
    output = capfd.readouterr().err
    assert output.count("000-seed_0 and all jobs with the same data cannot run") == 1 and "001" not in output
    assert not (folder / "runs" / "bad").exists()


def test_a_run_and_a_sweep_do_not_share_a_folder(grid, folder):
    for name, what in (("grid", "holds a sweep"), (f"grid/{BAD}", "is a run folder")):
        run = RunFolder(folder / "runs" / name)
        one = [*settings(folder), f"runs_dir={run.path.parent}", f"name='{run.path.name}'"]
        with pytest.raises(ConfigError, match=what):
            check_config(run, compose(one)) if name == "grid" else multirun([*one, "seed=0,1"])
