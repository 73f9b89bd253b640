"""Ctrl-C saves, a second one ends the run, and no process is left however the launch process ends."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from distft.launchers.follow import NewRows
from distft.run import RunFolder, state_in_words
from tests.support.fake_run import assert_none_left, freeze, wait_for_rows

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm")]


def drive(run: RunFolder, grace_seconds: float = 60, **options) -> subprocess.Popen[str]:
    """Starts a process that follows the run as launch does; its group is its own."""
    command = [sys.executable, "-m", "tests.support.drive", str(run.path), str(grace_seconds)]
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # which nohup, before pytest, would ignore
        **options,
    )


def ended(process: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str]:
    _, said = process.communicate(timeout=seconds)
    return process.returncode, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_one_signal_saves_and_ends_with_75(tmp_path, number):
    run = freeze(tmp_path / "run", steps=100_000)
    process = drive(run)
    wait_for_rows(run)
    os.killpg(process.pid, number)
    code, said = ended(process)
    assert code == 75
    assert run.read_status()["state"] == "preempted" and run.read_status()["exit_code"] == 75
    assert f"{number.name}: waiting for the step in progress" in said
    reason = "by you, with Ctrl-C" if number == signal.SIGINT else "SIGHUP to the launching process"
    assert json.loads(run.stop.read_text()) == {"attempt": 1, "reason": reason}
    assert run.read_status()["reason"] == reason
    by = reason if number == signal.SIGINT else f"({reason})"
    words = "stopped by you, with Ctrl-C" if number == signal.SIGINT else f"preempted ({reason})"
    assert state_in_words(run.read_status()) == words
    assert (
        said.splitlines()[-1] == f"{run.path}: saved and stopped {by}. The same command, with name=run, continues it."
    )
    assert_none_left(run)


def test_the_second_signal_ends_everything_at_once(tmp_path):
    run = freeze(tmp_path / "run", steps=100_000, deaf=True)
    process = drive(run, grace_seconds=600)
    wait_for_rows(run)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    code, said = ended(process)
    assert code == 130
    assert "the step in progress was not saved" in said
    assert run.read_status()["state"] == "failed" and run.read_status()["exit_code"] == 130
    assert_none_left(run)


def test_after_the_grace_seconds_everything_is_ended(tmp_path):
    run = freeze(tmp_path / "run", steps=100_000, deaf=True)
    process = drive(run, grace_seconds=1)
    wait_for_rows(run)
    process.send_signal(signal.SIGTERM)
    code, said = ended(process)
    assert code == 143 and "no step ended within 1 s" in said
    assert_none_left(run)


def test_nothing_outlives_a_killed_launch(tmp_path):
    run = freeze(tmp_path / "run", steps=100_000)
    process = drive(run)
    wait_for_rows(run)
    process.kill()
    process.wait()
    assert_none_left(run, seconds=30)


def test_a_closed_pipe_does_not_end_the_run(tmp_path):
    run = freeze(tmp_path / "run", steps=200)
    process = drive(run)
    assert process.stderr is not None
    process.stderr.close()
    wait_for_rows(run)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 75


def test_the_last_lines_name_the_culprit(tmp_path):
    run = freeze(tmp_path / "run", bad_rank=1, bad="raise", steps=1000)
    code, said = ended(drive(run))
    assert code == 1
    failed, place, log = said.splitlines()[-3:]
    assert failed == f"run failed: rank 1 on {os.uname().nodename}: ValueError: row 7 has no label"
    assert place.startswith("at  ") and "fake_worker.py:" in place
    assert log == f"log {run.rank_log(1, 1)}"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_named_even_if_nothing_can_be_written(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        run = freeze(disk / "run", steps=100_000, seconds=0.001)
        code, said = ended(drive(run))
        assert code == 1
        assert "rank 0" in said.splitlines()[-3] and "No space left on device" in said.splitlines()[-3]
        assert_none_left(run)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_metrics_file_that_cannot_be_written_is_named(tmp_path):
    run = freeze(tmp_path / "run", steps=1000)
    run.metrics.symlink_to("/dev/full")
    code, said = ended(drive(run))
    assert code == 1 and "rank 0" in said and "OSError: [Errno 28] No space left on device" in said


def line(step: int, split: str = "train", **more: float) -> str:
    return json.dumps({"step": step, "split": split, **more}) + "\n"


def test_every_row_is_followed_once_and_whole(tmp_path):
    run = RunFolder(tmp_path)
    rows = NewRows(run)
    assert list(rows.read()) == []
    run.metrics.write_text(line(1) + line(2) + line(2, "eval") + line(3)[:-5])
    assert [row["step"] for row in rows.read()] == [1, 2, 2]
    assert list(rows.read()) == []
    run.metrics.write_text(line(1) + line(2) + line(2, "eval") + line(3) + line(4))
    assert [row["step"] for row in rows.read()] == [3, 4]


@pytest.mark.parametrize("seen", [True, False], ids=["cut seen", "cut and made again between two looks"])
def test_rows_repeated_by_a_resumed_attempt_are_given_once(tmp_path, seen):
    run = RunFolder(tmp_path)
    rows = NewRows(run)
    run.metrics.write_text(line(1) + line(2) + line(3))
    assert len(list(rows.read())) == 3
    if seen:
        run.metrics.write_text(line(1))
        assert list(rows.read()) == []
    run.metrics.write_text(line(1) + line(2, seconds=0.123) + line(3, seconds=0.4567) + line(4, seconds=0.8))
    assert [row["step"] for row in rows.read()] == [4]


def test_following_a_run_imports_no_torch():
    program = "import distft.launch, sys; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
