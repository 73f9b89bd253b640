"""A job is followed by its run folder; SLURM is polled rarely, and its outcome is recorded."""

import json
from pathlib import Path

import pytest

from distft.config.errors import Unavailable
from distft.launchers.slurm import job as module
from distft.launchers.slurm.job import SlurmRun, read_job
from distft.run import RunFolder, state_in_words
from tests.support.stubs import RECORDED, calls, only_path, stub, stub_recorded


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    only_path(tmp_path / "programs", monkeypatch)
    return tmp_path / "programs"


@pytest.fixture
def handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmRun:
    """Job 7 of a fresh run, polled at every wait."""
    for name, value in {"_BETWEEN_LOOKS": 0.0, "_BETWEEN_QUESTIONS": (0.0, 0.0), "_TO_SHOW": 0.0}.items():
        monkeypatch.setattr(module, f"_SECONDS{name}", value)
    run = RunFolder(tmp_path / "run")
    run.write_status(state="pending", attempt=1, exit_code=None, error=None)
    run.logs.mkdir()
    handle = SlurmRun(run, "7")
    said: list[str] = []
    handle.say = said.append
    handle.said = said  # pyright: ignore[reportAttributeAccessIssue]
    return handle


def said(handle: SlurmRun) -> list[str]:
    return handle.said  # pyright: ignore[reportAttributeAccessIssue]


def test_a_written_outcome_is_used_without_asking_slurm(handle: SlurmRun, programs: Path):
    stub(programs, "scontrol", "exit 1")
    handle.run.write_status(state="completed", exit_code=0)
    outcome = handle.wait(0)
    assert outcome is not None and outcome.exit_code == 0 and handle.state() == "completed"
    assert not calls(programs, "scontrol")


def test_each_new_state_is_printed_once_with_its_reason(handle: SlurmRun, programs: Path):
    for recorded in ("pending", "pending", "running", "running", "completing"):
        stub_recorded(programs, "scontrol", f"{recorded}.txt")
        assert handle.wait(0) is None
    assert said(handle) == ["job 7: pending, waits for: Resources", "job 7: running", "job 7: completing"]


def test_a_job_ended_by_slurm_fails_with_state_and_last_line(handle: SlurmRun, programs: Path):
    (handle.run.logs / "slurm.out").write_text("x\nslurmstepd: error: Exceeded job memory limit\n\n")
    stub_recorded(programs, "scontrol", "failed.txt")
    assert handle.wait(0) is None, "what it wrote at its end may not be seen here yet"
    outcome = handle.wait(0.01)
    assert outcome is not None and outcome.error is not None and outcome.exit_code == 1
    assert outcome.error["message"] == (
        "job 7: SLURM ended it: FAILED (exit code 3:0). The last it printed: "
        "slurmstepd: error: Exceeded job memory limit"
    )
    status = handle.run.read_status()
    assert (status["state"], status["exit_code"], status["error"]) == ("failed", 1, outcome.error)


def test_a_job_of_an_older_version_is_to_be_resubmitted(handle: SlurmRun, programs: Path):
    (handle.run.logs / "slurm.out").write_text("/venv/bin/python: No module named distft.job\n")
    stub_recorded(programs, "scontrol", "failed.txt")
    handle.wait(0)
    outcome = handle.wait(0.01)
    assert outcome is not None and outcome.error is not None
    assert outcome.error["message"].endswith(
        "No module named distft.job. Another version of distft submitted it. Try: the same command again"
    )


def test_a_forgotten_job_is_preempted_only_if_it_saved(handle: SlurmRun, programs: Path):
    stub(programs, "scontrol", f"cat {RECORDED / 'forgotten.txt'} >&2; exit 1")
    handle.wait(0)
    outcome = handle.wait(0.01)
    assert outcome is not None and outcome.error is not None
    assert outcome.error["message"] == "job 7: SLURM has forgotten the job. The last it printed: nothing"
    handle.run.write_status(state="preempted", exit_code=None, error=None)
    handle.wait(0)
    outcome = handle.wait(0.01)
    assert outcome is not None and outcome.exit_code == 75 and handle.run.read_status()["exit_code"] == 75


def test_a_cancelled_job_is_reported_as_stopped_by_the_user(handle: SlurmRun, programs: Path):
    stub_recorded(programs, "scontrol", "cancelled.txt")
    for state, words in (
        ("preempted", "stopped by you, with scancel"),
        ("running", "failed, stopped by you, with scancel"),
    ):
        handle.run.write_status(state=state, exit_code=None, error=None)
        handle.wait(0)
        outcome = handle.wait(0.01)
        assert outcome is not None and outcome.exit_code == (75 if state == "preempted" else 1)
        assert state_in_words(handle.run.read_status()) == words


@pytest.mark.slow
def test_a_requeued_job_has_not_ended(handle: SlurmRun, programs: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_SECONDS_TO_SHOW", 0.2)
    for _ in range(4):
        stub_recorded(programs, "scontrol", "cancelled.txt")
        assert handle.wait(0.1) is None
        stub_recorded(programs, "scontrol", "pending.txt")
        assert handle.wait(0.1) is None


def test_an_unreachable_controller_is_retried_and_reported_once(handle: SlurmRun, programs: Path):
    stub(programs, "scontrol", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert [handle.wait(0) for _ in range(3)] == [None] * 3
    [text] = said(handle)
    assert text.startswith("SLURM does not answer, retrying: scontrol: slurm_load_jobs error: Unable to contact")
    stub_recorded(programs, "scontrol", "running.txt")
    assert handle.wait(0) is None and said(handle)[-1] == "job 7: running"


@pytest.mark.slow
def test_slurm_is_polled_less_while_nothing_changes(handle: SlurmRun, programs: Path, monkeypatch: pytest.MonkeyPatch):
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_QUESTIONS", (1.0, 15.0))
    handle = SlurmRun(handle.run, "7")
    handle.say = lambda _: None
    stub_recorded(programs, "scontrol", "running.txt")
    for _ in range(600):
        now += 1.0
        handle.wait(1)
    assert 600 / 15 <= len(calls(programs, "scontrol")) < 60


def test_cancel_reports_the_answer_of_slurm(handle: SlurmRun, programs: Path):
    stub(programs, "scancel", "")
    handle.cancel()
    assert calls(programs, "scancel") == [["7"]] and said(handle) == ["scancel 7"]
    stub(programs, "scancel", "echo 'scancel: error: Kill job error on job id 7: Access/permission denied' >&2; exit 1")
    handle.cancel()
    assert said(handle)[-1].endswith("Kill job error on job id 7: Access/permission denied")


def test_a_job_that_could_not_be_cancelled_continues(handle: SlurmRun, programs: Path):
    stub(programs, "scancel", "echo 'scancel: error: Unable to contact slurm controller (connect failure)' >&2; exit 1")
    with pytest.raises(Unavailable, match="job 7 continues. Try: scancel 7 when SLURM answers"):
        handle.cancel()
    assert handle.run.read_status()["exit_code"] is None


def test_the_job_of_a_run_is_read_back(tmp_path: Path):
    run = RunFolder(tmp_path)
    assert read_job(run) is None
    run.job.write_text(json.dumps({"job": "12_3", "attempt": 1}))
    assert read_job(run) == "12_3"
