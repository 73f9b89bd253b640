"""A run that hangs is ended within its limit, the ranks that hold it up are named, and all tell where they are."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distft.launchers.contract import Outcome
from distft.launchers.local import Local, LocalRun
from distft.run import EXIT_HANG, RunFolder, read_json
from tests.support.fake_run import assert_none_left, freeze

FAKE = "tests.support.fake_worker"


def end(run: RunFolder) -> Outcome:
    [handle] = Local(program=FAKE).submit([run.path])
    return end_of(handle)


def end_of(handle: LocalRun) -> Outcome:
    deadline = time.monotonic() + 90
    while (outcome := handle.wait(0.05)) is None:
        assert time.monotonic() < deadline, "the run did not end"
    return outcome


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bad", "state"),
    [
        pytest.param("sleep", "", marks=pytest.mark.soak),
        pytest.param("lock", "", marks=pytest.mark.soak),
        pytest.param("SIGSTOP", ", stopped by a signal", marks=pytest.mark.soak),
    ],
)
def test_the_rank_that_did_not_enter_the_collective_is_named(bad: str, state: str, tmp_path: Path):
    """It sleeps, holds the interpreter's lock in an endless loop, or is stopped; the other waits for it."""
    limits = {"hang_seconds": 5, "hang_seconds_outside": 60}
    run = freeze(tmp_path / "run", steps=1000, bad_rank=1, bad=bad, collective=True, launcher=limits)
    outcome = end(run)
    assert outcome.exit_code == EXIT_HANG == run.read_status()["exit_code"]
    error = outcome.error
    assert error is not None and (error["rank"], error["type"]) == (1, "Hang")
    assert "launcher.hang_seconds=5" in error["message"]
    assert re.search(
        rf"collective \d+ was not entered by rank 1 on \S+ in forward of step 3{state}\. ", error["message"]
    )
    text = (run.logs / "attempt-1" / "stacks-node-0.txt").read_text()
    first, second = re.split(r"^== rank 1 ", text, flags=re.MULTILINE)
    assert first.startswith("== rank 0 ") and "in barrier" in first
    assert "in misbehave" in second and "misbehave" in error["traceback"]
    assert_none_left(run)


@pytest.mark.slow
def test_a_rank_of_another_node_is_named_and_both_nodes_end(tmp_path: Path):
    limits = {"hang_seconds": 5, "hang_seconds_outside": 60}
    told = {"bad_rank": 1, "bad": "lock", "collective": True, "launcher": limits}
    run = freeze(tmp_path / "run", processes=1, nodes=2, steps=1000, **told)
    command = [sys.executable, "-m", "distft.launchers.elastic", str(run.path), "--program", FAKE, "--attempt", "1"]
    places = [["--node", str(node), "--address", "127.0.0.1"] for node in (0, 1)]
    nodes = [
        subprocess.Popen([*command, "--nodes", "2", *place], stdout=subprocess.PIPE, text=True) for place in places
    ]
    failures = [json.loads(node.communicate(timeout=90)[0]) for node in nodes]
    assert failures[0] == failures[1], "the run has one failure"
    assert (failures[0]["rank"], failures[0]["type"]) == (1, "Hang"), failures[0]
    assert {file.name for file in run.logs.rglob("stacks-*")} == {"stacks-node-0.txt", "stacks-node-1.txt"}
    assert_none_left(run)


@pytest.mark.soak
def test_a_run_that_waits_for_one_that_saves_goes_on(tmp_path: Path):
    limits = {"hang_seconds": 6, "hang_seconds_outside": 90}
    run = freeze(tmp_path / "run", steps=4, bad_rank=1, bad="save", collective=True, launcher=limits)
    assert end(run) == Outcome("completed")
    assert not list(run.logs.rglob("stacks-*"))


@pytest.mark.soak
def test_2000_healthy_steps_raise_no_alarm_and_where_the_ranks_are_is_told(tmp_path: Path):
    limits = {"hang_seconds": 10, "hang_seconds_outside": 60}
    run = freeze(tmp_path / "run", steps=2000, collective=True, launcher=limits)
    assert end(run) == Outcome("completed")
    health = read_json(run.health)
    assert health["attempt"] == 1 and [row["rank"] for row in health["ranks"]] == [0, 1]
    assert all("forward" in row["seconds_a_step"] for row in health["ranks"])
