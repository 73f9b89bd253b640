"""The culprit is named: never a peer that only lost its connection, and never no rank."""

import os
import signal
import subprocess
import sys

import pytest

from distft.run import RunFolder, read_json, write_json
from distft.runtime.errors import Exit, Failure, first_failure, of_process

GLOO = "[pair.cc:537] Read error [127.0.0.1]:50363: Connection reset by peer. This is typically caused by ..."
NCCL = "NCCL error: remote process exited or there was a network error"


def write(run: RunFolder, rank: int, kind: str, message: str, time: float) -> None:
    failure = {"rank": rank, "host": "h", "type": kind, "message": message, "time": time}
    write_json(run.rank_error(1, rank), failure)


def culprit(run: RunFolder, exits: dict[int, Exit]) -> int | None:
    failure = first_failure(run, 1, exits, run.path / "none")
    return failure.rank if failure else None


def test_no_failure_is_none(tmp_path):
    assert culprit(RunFolder(tmp_path), {}) is None


def test_the_earliest_of_two_exceptions_wins(tmp_path):
    run = RunFolder(tmp_path)
    write(run, 0, "ValueError", "second", 2.0)
    write(run, 1, "ValueError", "first", 1.0)
    assert culprit(run, {0: Exit(1, 2), 1: Exit(1, 2)}) == 1


@pytest.mark.parametrize(("kind", "message"), [("RuntimeError", GLOO), ("DistBackendError", NCCL)])
def test_a_lost_peer_never_wins_over_an_exception_or_a_signal(tmp_path, kind, message):
    run = RunFolder(tmp_path)
    write(run, 0, kind, message, 1.0)
    assert culprit(run, {0: Exit(1, 1), 2: Exit(-signal.SIGKILL, 2)}) == 2
    write(run, 1, "ValueError", "why", 3.0)
    assert culprit(run, {0: Exit(1, 1), 1: Exit(1, 3), 2: Exit(-signal.SIGKILL, 4)}) == 1


def test_a_user_error_about_a_connection_is_not_a_lost_peer():
    assert not Failure(0, "h", "ValueError", "Connection refused by 10.0.0.1").peer_lost


def test_ranks_ended_by_the_elastic_process_come_last(tmp_path):
    run = RunFolder(tmp_path)
    exits = {0: Exit(-signal.SIGTERM, 5), 1: Exit(3, 5), 2: Exit(-signal.SIGTERM, 5)}
    assert culprit(run, exits) == 1


def test_errors_outside_a_full_run_folder_are_read(tmp_path):
    run, spare = RunFolder(tmp_path / "run"), tmp_path / "spare"
    write_json(spare / "rank-1.json", {"rank": 1, "host": "h", "type": "OSError", "message": "full", "time": 1.0})
    failure = first_failure(run, 1, {0: Exit(-signal.SIGTERM, 2), 1: Exit(1, 2)}, spare)
    assert failure is not None and (failure.rank, failure.message) == (1, "full")


def test_sigkill_is_reported_with_its_usual_causes(tmp_path):
    assert "memory ran out" in of_process(Exit(-signal.SIGKILL, 0), tmp_path / "log").message


def recorded(run: RunFolder, body: str, **variables: str) -> tuple[int, str]:
    """Runs `body` under record in an own process, because record ends it."""
    program = f"""
from pathlib import Path
from distft.run import RunFolder
from distft.runtime.errors import record
with record(RunFolder(Path({str(run.path)!r})), 1, 3):
    {body}
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ | variables
    )
    return done.returncode, done.stderr


def test_an_exception_is_recorded_with_its_deepest_own_line(tmp_path):
    run = RunFolder(tmp_path)
    code, said = recorded(run, "RunFolder(Path('/nowhere')).read_config()")
    error = read_json(run.rank_error(1, 3))
    assert code == 1 and "FileNotFoundError" in said
    assert (error["rank"], error["type"]) == (3, "FileNotFoundError")
    assert "/nowhere/config.yaml" in error["message"]
    assert "/distft/run.py:" in error["where"]
    assert error["log"] == str(run.rank_log(1, 3))
    assert error["traceback"].startswith("Traceback") and error["time"] > 0


def test_secrets_are_blanked_in_what_is_recorded_and_printed(tmp_path):
    run = RunFolder(tmp_path)
    _, said = recorded(run, "raise ValueError('no access with hf_abcdefghij')", HF_TOKEN="hf_abcdefghij")
    assert "hf_abcdefghij" not in said and "hf_abcdefghij" not in run.rank_error(1, 3).read_text()
    assert "no access with <HF_TOKEN>" in said


@pytest.mark.slow
def test_success_and_exit_zero_leave_no_record(tmp_path):
    run = RunFolder(tmp_path)
    assert recorded(run, "pass")[0] == 0
    assert recorded(run, "raise SystemExit(0)")[0] == 0
    assert not run.rank_error(1, 3).exists()


@pytest.mark.slow
def test_other_exits_and_interrupts_are_recorded(tmp_path):
    run = RunFolder(tmp_path)
    assert recorded(run, "raise SystemExit('bad end')")[0] == 1
    assert read_json(run.rank_error(1, 3))["message"] == "bad end"
    assert recorded(run, "raise KeyboardInterrupt")[0] == 1
