"""A run that hangs is ended within its limit; the ranks that block it are named, and all dump their stacks.

How long a rank may be silent: the typed limit, else one from its own steps; longer outside of a step.
"""

import json
import math
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from distft.config.parts import Launcher
from distft.launchers.contract import Outcome
from distft.launchers.local import Local, LocalConfig, LocalRun
from distft.launchers.watchdog import FLOOR_SECONDS, Limits, Ranks, RankState, StepSeconds, lagging
from distft.run import EXIT_HANG, RunFolder, read_json
from distft.runtime.heartbeat import PHASES, Beat
from tests.support.fake_run import assert_none_left, freeze

FAKE = "tests.support.fake_worker"


def end(run: RunFolder) -> Outcome:
    [handle] = Local(LocalConfig(program=FAKE)).submit([run.path])
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
    reported = {"bad_rank": 1, "bad": "lock", "collective": True, "launcher": limits}
    run = freeze(tmp_path / "run", processes=1, nodes=2, steps=1000, **reported)
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
def test_a_run_that_waits_for_a_save_continues(tmp_path: Path):
    limits = {"hang_seconds": 6, "hang_seconds_outside": 90}
    run = freeze(tmp_path / "run", steps=4, bad_rank=1, bad="save", collective=True, launcher=limits)
    assert end(run) == Outcome("completed")
    assert not list(run.logs.rglob("stacks-*"))


@pytest.mark.soak
def test_2000_healthy_steps_raise_no_alarm(tmp_path: Path):
    limits = {"hang_seconds": 10, "hang_seconds_outside": 60}
    run = freeze(tmp_path / "run", steps=2000, collective=True, launcher=limits)
    assert end(run) == Outcome("completed")
    health = read_json(run.health)
    assert health["attempt"] == 1 and [row["rank"] for row in health["ranks"]] == [0, 1]
    assert all("forward" in row["seconds_a_step"] for row in health["ranks"])


BEAT = Beat(1, 1, "forward", 1, 1, 0.0, dict.fromkeys(PHASES, 0.0))


def after(limits: Limits, *seconds: float) -> StepSeconds:
    """Returns the pace of a rank whose steps took so long."""
    pace = StepSeconds(limits)
    for step, taken in enumerate(seconds, start=2):
        for _ in range(2):  # a step is seen more than once
            pace.see(replace(BEAT, step=step, step_seconds=taken))
    return pace


def test_a_typed_limit_applies_from_the_first_step():
    pace = after(Limits(step=7.0, outside=50.0))
    phases = ("start", "data", "forward", "checkpoint", "evaluation")
    assert [pace.limit(phase)[0] for phase in phases] == [50, 7, 7, 50, 50]
    assert pace.limit("backward")[1] == "launcher.hang_seconds=7"
    assert pace.limit("checkpoint")[1] == "launcher.hang_seconds_outside=50"


def test_0_disables_the_watchdog():
    pace = after(Limits(step=0.0, outside=0.0))
    assert {pace.limit(phase)[0] for phase in PHASES} == {math.inf}


@pytest.mark.parametrize(
    ("steps", "limit"),
    [((), 1800), ((9.0, 9.0), 1800), ((1.0, 1.0, 1.0), FLOOR_SECONDS), ((600.0, 40.0, 50.0, 60.0), 550)],
)
def test_the_default_limit_follows_the_median_step(steps: tuple[float, ...], limit: float):
    assert after(Limits(), *steps).limit("forward")[0] == limit


def test_an_older_frozen_config_has_the_default_limits():
    assert Limits.of(Launcher()) == Limits(None, 1800)
    assert Limits.of(Launcher(hang_seconds=0, hang_seconds_outside=5)) == Limits(0, 5)


def test_ranks_may_wait_as_long_as_one_saves(tmp_path: Path):
    ranks = Ranks(tmp_path, range(2), Limits(step=7.0, outside=50.0))
    assert ranks.limit()[0] == 50, "none has begun"
    ranks.last = {0: BEAT, 1: BEAT}
    assert ranks.limit()[0] == 7
    ranks.last = {0: BEAT, 1: replace(BEAT, phase="checkpoint")}
    assert ranks.limit()[0] == 50


def test_late_ranks_are_those_missing_from_the_collective():
    states = [RankState(rank, "n", 3, "forward", entered, 9.0, "", "") for rank, entered in enumerate((8, 9, 7, 9))]
    assert [each.rank for each in lagging(states)] == [0, 2]
    assert lagging([replace(each, collectives=4) for each in states]) == []
