"""A batch job around its ranks: each start counts once, uses the available nodes, and ends by the job's rules."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from distft.checkpoint.format import step_dir, write_index, write_manifest
from distft.config import read_config
from distft.goodput import read_timeline
from distft.launch import job
from distft.launchers.slurm.commands import job_state
from distft.run import EXIT_AGAIN, RunFolder, State, write_json
from distft.runtime import stop
from distft.runtime.errors import Failure
from tests.support.slurm_run import freeze
from tests.support.stubs import RECORDED, calls, only_path, stub, stub_recorded

ONE = "launcher.nodes=1"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SLURM's programs and the environment of job 12 on one node, which runs and has a day left."""
    folder = tmp_path / "programs"
    only_path(folder, monkeypatch)
    stub_recorded(folder, "scontrol", "running.txt")
    stub(folder, "squeue", "echo 1-00:00:00")
    given = {"SLURM_JOB_ID": "12", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "n1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return folder


def begin(run: RunFolder) -> int:
    return job.main(["begin", str(run.path)])


def end(run: RunFolder, code: int = 0) -> int:
    return job.main(["end", str(run.path), str(code)])


def requeues(programs: Path) -> list[list[str]]:
    return [call for call in calls(programs, "scontrol") if call[0] == "requeue"]


def save(run: RunFolder, step: int) -> None:
    """Makes a checkpoint without files."""
    step_dir(run.checkpoints, step).mkdir(parents=True)
    body = {"step": step, "reads": run.read_plan().reads, "base_step": 0, "base_row": 0}
    write_manifest(step_dir(run.checkpoints, step), body)
    write_index(run.checkpoints, {step})


def preempted(run: RunFolder, reason: str, **status: Any) -> None:
    """Leaves the run as its ranks do that have saved."""
    stop.request(run, run.read_status()["attempt"], reason)
    run.write_status(state="preempted", step=3, exit_code=None, **status)


@pytest.mark.slow
def test_the_script_gets_only_the_number_of_nodes(tmp_path: Path, programs: Path):
    run = freeze(tmp_path / "x", "run", ONE)
    command = [sys.executable, "-m", "distft.launch.job", "begin", str(run.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert done.stderr == "job 12, attempt 1: 1 x 1 processes on n1\n"


@pytest.mark.slow
def test_each_start_counts_once_and_clears_stop_requests(tmp_path: Path, programs: Path):
    run = freeze(tmp_path / "x", "run", ONE)
    for attempt in (1, 2, 3):
        stop.request(run, attempt, "of the start before")
        assert begin(run) == 0
        status = run.read_status()
        assert (status["attempt"], status["state"], status["exit_code"]) == (attempt, "pending", None)
        assert not run.stop.exists() and json.loads(run.job.read_text())["attempt"] == attempt
    run.write_status(state="pending", attempt=4)  # a launch counts up itself
    assert begin(run) == 0 and run.read_status()["attempt"] == 4
    begun = [(turn.event, turn.attempt, turn.about) for turn in read_timeline(run)][-1]
    assert begun == ("begun", 4, {"queued": job_state("12").queued}), "by the scheduler's own clock"


def test_an_array_task_is_identified_by_its_array():
    assert job.this_job({"SLURM_JOB_ID": "15"}) == "15"
    assert job.this_job({"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}) == "12_3"


@pytest.mark.slow
def test_the_third_start_without_a_checkpoint_is_the_last(tmp_path: Path, programs: Path, capsys):
    run = freeze(tmp_path / "x", "run", ONE)
    assert [begin(run) for _ in range(3)] == [0, 0, 0]
    assert begin(run) == 1
    status = run.read_status()
    assert (status["state"], status["exit_code"], status["attempt"]) == ("failed", 1, 3)
    assert "3 starts made no checkpoint after step 0" in status["error"]["message"]
    assert f"{run.logs}/attempt-1 to attempt-3" in status["error"]["message"]
    assert status["error"]["message"] in capsys.readouterr().err
    run.write_status(state="pending", attempt=4, exit_code=None, error=None)  # launched again, after a look at it
    assert begin(run) == 0


@pytest.mark.slow
def test_starts_that_make_progress_are_not_limited(tmp_path: Path, programs: Path):
    run = freeze(tmp_path / "x", "run", ONE)
    for step in range(1, 6):
        assert [begin(run), begin(run)] == [0, 0]
        save(run, step)
    assert [begin(run) for _ in range(4)] == [0, 0, 0, 1]


@pytest.mark.parametrize(("there", "used"), [(1, 1), (2, 2), (3, 2), (4, 4), (7, 4)])
def test_the_most_nodes_that_can_share_a_step_are_used(
    there: int, used: int, tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", str(there))
    run = freeze(tmp_path / "x", "run", "launcher.nodes=1-4")  # 32 rows a step, 4 at a time: not for 3
    before = run.read_plan()
    assert (before.nodes, before.accumulation) == (4, 2)
    assert begin(run) == 0 and capsys.readouterr().out == f"{used}\n"
    now = run.read_plan()
    assert (now.nodes, now.world, now.accumulation) == (used, used, 8 // used)
    changed = {"nodes": 0, "world": 0, "accumulation": 0, "memory": {}}
    assert replace(now, **changed) == replace(before, **changed), "the steps are the same"


def test_token_micro_batches_fit_any_number_of_nodes(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")
    sizes = ["launcher.nodes=1-4", "data.packing=true", "train.micro_batch_tokens=1024"]
    run = freeze(tmp_path / "x", "run", *sizes, micro_batch_size=None)
    assert begin(run) == 0 and run.read_plan().world == 3


@pytest.mark.parametrize(("asked", "there"), [("3-4", 3), ("2-4", 1)])
def test_a_number_of_nodes_that_cannot_share_a_step_is_refused(
    asked: str, there: int, tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", str(there))
    run = freeze(tmp_path / "x", "run", f"launcher.nodes={asked}")
    assert begin(run) == 1
    message = run.read_status()["error"]["message"]
    assert message.startswith(f"SLURM gave {there} nodes, launcher.nodes={asked}, and no such number divides a step")
    assert message.endswith("Try: sbatch --nodes=4")


@pytest.mark.slow
def test_a_run_of_another_job_that_is_alive_is_left_untouched(tmp_path: Path, programs: Path, capsys):
    run = freeze(tmp_path / "x", "run", ONE)
    run.write_status(state="running", step=7)
    write_json(run.job, {"job": "11"})
    before = run.status.read_bytes(), run.job.read_bytes()
    assert begin(run) == 1
    assert f"job 11 has {run.path} already. Try: scancel 11, or another name" in capsys.readouterr().err
    assert (run.status.read_bytes(), run.job.read_bytes()) == before
    for gone in ("cancelled.txt", "failed.txt"):
        stub_recorded(programs, "scontrol", gone)
        assert begin(run) == 0
        write_json(run.job, {"job": "11"})
    stub(programs, "scontrol", "echo 'Unable to contact slurm controller' >&2; exit 1")
    before = run.status.read_bytes()
    assert begin(run) == 1 and run.status.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("reason", ["SLURM sent SIGUSR1", "SLURM sent SIGTERM"])
def test_a_preempted_job_is_requeued_and_not_ended(reason: str, tmp_path: Path, programs: Path):
    run = freeze(tmp_path / "x", "run", ONE)
    begin(run)
    preempted(run, reason)
    assert end(run) == 75
    assert requeues(programs) == [["requeue", "12"]]
    assert run.read_status()["exit_code"] is None and run.read_status()["state"] == "preempted"


@pytest.mark.parametrize("reason", ["SIGINT to the launching process", "need the machine"])
def test_a_job_stopped_by_a_user_is_not_requeued(reason: str, tmp_path: Path, programs: Path, capsys):
    run = freeze(tmp_path / "x", "run", ONE)
    begin(run)
    preempted(run, reason)
    assert end(run) == 75 and not requeues(programs)
    assert run.read_status()["exit_code"] == 75
    assert f"saved and stopped: {reason}" in capsys.readouterr().err


@pytest.mark.parametrize("state", ["preempted", "running"])
def test_the_end_of_a_job_that_slurm_ends_is_left_open(state: State, tmp_path: Path, programs: Path):
    """It is cancelled, or queued again already: a launch that read an outcome here would stop following the run."""
    run = freeze(tmp_path / "x", "run", ONE)
    begin(run)
    preempted(run, "SLURM sent SIGTERM")
    run.write_status(state=state)
    stub_recorded(programs, "scontrol", "completing.txt")
    assert end(run, code=143) == 143 and not requeues(programs)
    assert (run.read_status()["state"], run.read_status()["exit_code"]) == (state, None)


def test_a_cancelled_job_records_it_without_a_waiting_launch(tmp_path: Path, programs: Path):
    run = freeze(tmp_path / "x", "run", ONE)
    begin(run)
    preempted(run, "SLURM sent SIGTERM")
    reasons = {"completing": "SLURM sent SIGTERM: scancel or a preemption", "cancelled": "by you, with scancel"}
    for recorded, reason in reasons.items():
        stub_recorded(programs, "scontrol", f"{recorded}.txt")
        assert end(run, code=143) == 143
        status = run.read_status()
        assert (status["state"], status["exit_code"], status["reason"]) == ("preempted", None, reason)


@pytest.mark.slow
def test_time_limits_are_counted_and_preemptions_are_not(tmp_path: Path, programs: Path, capsys):
    run = freeze(tmp_path / "x", "run", ONE, "launcher.max_timeouts=2")
    left = {"limit": "1:40", "preemption": "1-00:00:00", "no limit": "UNLIMITED"}
    ends = ["limit", "preemption", "no limit", "preemption", "limit", "preemption"]
    for step, cause in enumerate(ends, start=1):
        begin(run)
        save(run, step)
        stub(programs, "squeue", f"echo {left[cause]}")
        preempted(run, "SLURM sent SIGUSR1")
        assert end(run) == 75 and run.read_status()["exit_code"] is None, cause
    assert run.read_status()["timeouts"] == 2 and len(requeues(programs)) == len(ends)
    stub(programs, "squeue", f"echo {left['limit']}")
    begin(run)
    preempted(run, "SLURM sent SIGUSR1")
    assert end(run) == 75 and len(requeues(programs)) == len(ends)
    assert "2 time limits were reached (launcher.max_timeouts)" in capsys.readouterr().err
    run.write_status(state="pending", attempt=20, exit_code=None)  # launched again: it has them again
    begin(run)
    assert run.read_status()["timeouts"] == 0


@pytest.mark.slow
def test_a_run_without_a_warning_is_requeued_past_its_limit(tmp_path: Path, programs: Path, capsys):
    run = freeze(tmp_path / "x", "run", ONE, "launcher.max_timeouts=1")
    begin(run)
    save(run, 1)
    stub_recorded(programs, "scontrol", "past_limit.txt")
    run.write_status(state="running")  # it has not saved
    assert end(run, code=143) == 143 and not requeues(programs)
    preempted(run, "SLURM sent SIGTERM")
    assert end(run, code=143) == 75 and requeues(programs) == [["requeue", "12"]]
    assert (run.read_status()["timeouts"], run.read_status()["exit_code"]) == (1, None)
    assert end(run, code=143) == 75 and len(requeues(programs)) == 1
    assert "1 time limits were reached (launcher.max_timeouts)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_refused_requeue_leaves_the_run_preempted(tmp_path: Path, programs: Path, capsys):
    run = freeze(tmp_path / "x", "run", ONE)
    begin(run)
    preempted(run, "SLURM sent SIGUSR1")
    refuse = "echo 'Access/permission denied' >&2; exit 1"
    stub(programs, "scontrol", f"case $1 in requeue) {refuse};; *) cat {RECORDED / 'running.txt'};; esac")
    assert end(run) == 75 and run.read_status()["exit_code"] == 75
    assert "SLURM refused to requeue it: scontrol: Access/permission denied" in capsys.readouterr().err


@pytest.mark.slow
def test_a_finished_run_ends_with_0_and_its_results(tmp_path: Path, programs: Path):
    run = freeze(tmp_path / "x", "run", ONE)
    begin(run)
    run.write_status(state="completed", step=8)
    (run.path / "report.html").touch()  # has been made
    assert end(run) == 0
    assert (run.read_status()["state"], run.read_status()["exit_code"]) == ("completed", 0)


def test_the_outcome_reported_by_node_0_is_kept(tmp_path: Path, programs: Path):
    run = freeze(tmp_path / "x", "run", ONE)
    begin(run)
    run.write_status(state="failed", exit_code=1, error={"message": "row 7"})
    assert end(run, 1) == 1 and run.read_status()["error"] == {"message": "row 7"}


@pytest.mark.slow
def test_another_nodes_error_is_used_if_node_0_reported_none(tmp_path: Path, programs: Path):
    run = freeze(tmp_path / "x", "run", ONE)
    begin(run)
    run.write_status(state="running", step=2)
    write_json(run.logs / "attempt-1" / "node-1.error.json", asdict(Failure.of_run("node 1: no GPU")))
    assert end(run, 137) == 1
    assert run.read_status()["error"]["message"] == "node 1: no GPU"


@pytest.mark.slow
def test_a_step_that_srun_could_not_create_is_retried(tmp_path: Path, programs: Path):
    run = freeze(tmp_path / "x", "run", ONE)
    begin(run)
    said = "srun: error: Unable to confirm allocation for job 12: Unable to contact slurm controller (connect failure)"
    (run.logs / "slurm.out").write_text(f"{said}\nsrun: Check SLURM_JOB_ID environment variable. Expired or invalid\n")
    assert end(run, 1) == EXIT_AGAIN and run.read_status()["exit_code"] is None
    run.write_status(state="running")
    assert end(run, 1) == 1, "a rank had begun"


@pytest.mark.parametrize(("code", "how"), [(143, "by SIGTERM"), (1, "with code 1")])
def test_a_silent_step_is_reported_by_its_exit_status(code: int, how: str, tmp_path: Path, programs: Path):
    run = freeze(tmp_path / "x", "run", ONE)
    begin(run)
    assert end(run, code) == 1
    error = run.read_status()["error"]
    assert error["message"].startswith(f"srun ended {how} before the run was done")
    assert error["log"] == str(run.logs / "slurm.out")


@pytest.mark.parametrize(
    ("asked", "code"),
    [("SLURM sent SIGTERM", EXIT_AGAIN), ("SLURM sent SIGUSR1", 1), ("by hand", 1), (None, EXIT_AGAIN)],
)
def test_a_node_failure_is_not_taken_for_a_stop_request(asked: str | None, code: int, tmp_path: Path, programs: Path):
    run = freeze(tmp_path / "x", "run", ONE, "launcher.restarts=1")
    assert begin(run) == 0
    if asked:
        stop.request(run, 1, asked)
    run.write_status(state="failed", error=asdict(Failure(1, "n2", "SIGKILL", "it was killed")))
    assert end(run, 1) == code


def test_the_frozen_config_records_the_group_choices(tmp_path: Path):
    run = freeze(tmp_path / "x", "run", ONE)
    config = read_config(run)
    assert config.choices["launcher"] == "slurm"
