"""How long a rank may be silent: what was asked for, else what its own steps say; more where it is in no step."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from distft.launchers.watchdog import FLOOR_SECONDS, Limits, Ranks, RankState, StepSeconds, lagging
from distft.runtime.heartbeat import PHASES, Beat

BEAT = Beat(1, 1, "forward", 1, 1, 0.0, dict.fromkeys(PHASES, 0.0))


def after(limits: Limits, *seconds: float) -> StepSeconds:
    """Returns the pace of a rank whose steps took so long."""
    pace = StepSeconds(limits)
    for step, taken in enumerate(seconds, start=2):
        for _ in range(2):  # a step is seen more than once
            pace.see(replace(BEAT, step=step, step_seconds=taken))
    return pace


def test_what_is_asked_for_counts_from_the_first_step_on():
    pace = after(Limits(step=7.0, outside=50.0))
    phases = ("start", "data", "forward", "checkpoint", "evaluation")
    assert [pace.limit(phase)[0] for phase in phases] == [50, 7, 7, 50, 50]
    assert pace.limit("backward")[1] == "launcher.hang_seconds=7"
    assert pace.limit("checkpoint")[1] == "launcher.hang_seconds_outside=50"


def test_0_is_no_limit():
    pace = after(Limits(step=0.0, outside=0.0))
    assert {pace.limit(phase)[0] for phase in PHASES} == {math.inf}


@pytest.mark.parametrize(
    ("steps", "limit"),
    [((), 1800), ((9.0, 9.0), 1800), ((1.0, 1.0, 1.0), FLOOR_SECONDS), ((600.0, 40.0, 50.0, 60.0), 550)],
)
def test_else_the_median_step_tells_once_there_are_three(steps: tuple[float, ...], limit: float):
    assert after(Limits(), *steps).limit("forward")[0] == limit


def test_a_frozen_config_of_an_older_version_has_the_usual_limits():
    assert Limits.of({}) == Limits(None, 1800)
    assert Limits.of({"hang_seconds": 0, "hang_seconds_outside": 5}) == Limits(0, 5)


def test_while_one_rank_saves_the_others_may_wait_as_long(tmp_path: Path):
    ranks = Ranks(tmp_path, range(2), Limits(step=7.0, outside=50.0))
    assert ranks.limit()[0] == 50, "none has begun"
    ranks.last = {0: BEAT, 1: BEAT}
    assert ranks.limit()[0] == 7
    ranks.last = {0: BEAT, 1: replace(BEAT, phase="checkpoint")}
    assert ranks.limit()[0] == 50


def test_the_late_are_those_that_have_not_entered_what_others_wait_in():
    states = [RankState(rank, "n", 3, "forward", entered, 9.0, "", "") for rank, entered in enumerate((8, 9, 7, 9))]
    assert [each.rank for each in lagging(states)] == [0, 2]
    assert lagging([replace(each, collectives=4) for each in states]) == []
