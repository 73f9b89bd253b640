"""A run on this machine ends as a whole, and its first failing rank is named."""

import os
import signal

import pytest

from distft.launchers.contract import Outcome
from distft.launchers.local import Local, LocalConfig, LocalRun
from distft.run import RunFolder
from tests.support.fake_run import assert_none_left, freeze, name_of, processes_of, wait_for_rows

FAKE = "tests.support.fake_worker"


def start(run: RunFolder, program: str = FAKE) -> LocalRun:
    return Local(LocalConfig(program=program)).submit([run.path])[0]


def end(handle: LocalRun, seconds: float = 60) -> Outcome:
    outcome = handle.wait(seconds)
    assert outcome is not None, "the run did not end"
    return outcome


@pytest.mark.slow
def test_every_rank_runs_and_prints_to_its_own_log(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run = freeze(tmp_path / "a run (1)")
    handle = start(run)
    assert end(handle) == Outcome("completed")
    assert handle.state() == run.read_status()["state"] == "completed"
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    for rank in (0, 1):
        assert run.rank_log(1, rank).read_text() == f"rank {rank} in attempt 1 with {threads} threads\n"


@pytest.mark.slow
def test_the_rank_that_raised_is_named_and_not_its_peers(tmp_path):
    run = freeze(tmp_path / "run", collective=True, bad_rank=1, bad="raise")
    error = end(start(run)).error
    assert error is not None
    assert (error["rank"], error["type"], error["message"]) == (1, "ValueError", "row 7 has no label")
    assert error["where"].rpartition(":")[0].endswith("tests/support/fake_worker.py")
    assert error["log"] == str(run.rank_log(1, 1))
    assert run.read_status()["error"] == error and run.read_status()["state"] == "failed"
    assert not processes_of(run)


@pytest.mark.slow
def test_a_killed_rank_is_named_and_not_its_peer(tmp_path):
    run = freeze(tmp_path / "run", collective=True, bad_rank=1, bad="kill")
    outcome = end(start(run))
    assert outcome.error is not None and outcome.exit_code == 1
    assert (outcome.error["rank"], outcome.error["type"]) == (1, "SIGKILL")
    assert not processes_of(run)


@pytest.mark.slow
def test_a_rank_that_just_exits_is_named_with_its_last_line(tmp_path):
    run = freeze(tmp_path / "run", steps=1000, bad_rank=1, bad="exit")
    error = end(start(run)).error
    assert error is not None and (error["rank"], error["type"]) == (1, "exit code 3")
    assert "a library gave up" in error["message"]
    assert not processes_of(run)


@pytest.mark.slow
def test_a_worker_that_cannot_be_imported_is_reported(tmp_path):
    run = freeze(tmp_path / "run", processes=1)
    error = end(start(run, program="tests.launchers.no_such_worker")).error
    assert error is not None and "No module named 'tests.launchers.no_such_worker'" in error["message"]


@pytest.mark.slow
def test_a_broken_plan_is_reported_with_the_reason(tmp_path):
    run = freeze(tmp_path / "run")
    run.plan.write_text("{}")
    error = end(start(run)).error
    assert error is not None and error["rank"] is None and "processes_per_node" in error["message"]


@pytest.mark.slow
def test_no_rank_outlives_the_elastic_process(tmp_path):
    run = freeze(tmp_path / "run", steps=100_000)
    handle = start(run)
    wait_for_rows(run)
    [elastic] = [pid for pid in processes_of(run) if name_of(pid) == "elastic"]
    os.kill(elastic, signal.SIGKILL)
    error = end(handle).error
    assert error is not None and (error["rank"], error["type"]) == (None, "SIGKILL")
    assert error["log"].endswith("elastic.log")
    assert_none_left(run)


@pytest.mark.slow
def test_cancel_ends_every_process_at_once(tmp_path):
    run = freeze(tmp_path / "run", steps=100_000)
    handle = start(run)
    wait_for_rows(run)
    handle.cancel()
    assert end(handle).state == "failed"
    assert_none_left(run)


@pytest.mark.slow
def test_runs_beyond_jobs_at_once_wait_for_their_turn(tmp_path):
    runs = [freeze(tmp_path / name, processes=1) for name in "ab"]
    first, second = Local(LocalConfig(program=FAKE)).submit([run.path for run in runs])
    assert second.state() == "pending" and not processes_of(runs[1])
    assert end(first) == Outcome("completed")
    assert second.wait(0) is None
    assert end(second) == Outcome("completed")


@pytest.mark.slow
def test_a_cancelled_run_of_the_queue_never_starts(tmp_path):
    runs = [freeze(tmp_path / name, processes=1) for name in "ab"]
    first, second = Local(LocalConfig(program=FAKE)).submit([run.path for run in runs])
    second.cancel()
    assert end(first) == Outcome("completed")
    assert end(second).state == "failed" and not runs[1].metrics.exists()


@pytest.mark.slow
def test_two_concurrent_runs_do_not_interfere(tmp_path):
    runs = [freeze(tmp_path / name, collective=True) for name in "ab"]
    handles = Local(LocalConfig(program=FAKE, jobs_at_once=2)).submit([run.path for run in runs])
    assert [end(handle) for handle in handles] == [Outcome("completed")] * 2


@pytest.mark.slow
def test_more_nodes_are_refused_with_a_fix():
    with pytest.raises(ValueError, match=r"launcher.nodes=4 .* Try: .*rendezvous=HOST:29500, or launcher=slurm"):
        Local(LocalConfig(nodes=4))
