"""`plan` gives the votes that its test needs: closed forms, and simulated studies with rater and prompt effects."""

import random
from typing import Any

import numpy as np
import pytest

from distft.config import ConfigError
from distft.human_eval.__main__ import main
from distft.human_eval.assignment import assign
from distft.human_eval.intervals import clustered
from distft.human_eval.power import Plan, independent_votes, power_of, vote_variance, votes_needed


@pytest.mark.parametrize(
    ("effect", "votes"), [(0.52, 4904), (0.55, 783), (0.57, 399), (0.6, 194), (0.65, 85), (0.7, 47)]
)  # of the two-sided binomial test without ties, 5% and 80%
def test_independent_votes_are_the_known_ones(effect: float, votes: int):
    assert independent_votes(Plan(effect, ties=0)) == votes
    assert independent_votes(Plan(1 - effect, ties=0)) == votes


def test_the_number_is_the_smallest_with_the_power():
    for asked in (Plan(0.57), Plan(0.4, power=0.9, overlap=3), Plan(0.6, raters=50)):
        votes = votes_needed(asked)
        assert votes is not None and power_of(asked, votes) >= asked.power > power_of(asked, votes - 1)


def simulated_power(asked: Plan, votes: int, studies: int, seed: int) -> float:
    """Returns the share of simulated studies whose interval lies above 0.5.

    The probability of a win is the mean plus a uniform effect of the prompt and of the rater, with the variances that
    the plan's correlations mean.
    """
    rng = np.random.default_rng(seed)
    names = [str(number) for number in range(votes // asked.overlap)]
    variance, shown = vote_variance(asked.effect, asked.ties), 0
    for study in range(studies):
        if study % 50 == 0:
            loads = assign(names, asked.raters, asked.overlap, random.Random(study))
            raters = np.repeat(np.arange(asked.raters), [len(load) for load in loads])
            prompts = np.array([int(item) for load in loads for item in load])
        of_prompt = np.sqrt(3 * asked.prompt_correlation * variance) * rng.uniform(-1, 1, len(names))
        of_rater = np.sqrt(3 * asked.rater_correlation * variance) * rng.uniform(-1, 1, asked.raters)
        wins = asked.effect - asked.ties / 2 + of_prompt[prompts] + of_rater[raters]
        drawn = rng.random(len(prompts))
        scores = np.where(drawn < wins, 1.0, np.where(drawn < wins + asked.ties, 0.5, 0.0))
        found = clustered(scores, raters, prompts)
        shown += found is not None and found.low > 0.5
    return shown / studies


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked", [Plan(0.6), Plan(0.6, overlap=3, raters=30, prompt_correlation=0.2, rater_correlation=0.02)]
)
def test_the_power_is_that_of_simulated_studies(asked: Plan):
    votes = votes_needed(asked)
    assert votes is not None
    assert simulated_power(asked, votes, 3000, seed=1) == pytest.approx(power_of(asked, votes), abs=0.02)


@pytest.mark.soak
@pytest.mark.parametrize(
    "asked",
    [Plan(0.57), Plan(0.65), Plan(0.6, power=0.9, raters=50, overlap=1, rater_correlation=0), Plan(0.55, raters=60),
     Plan(0.6, power=0.5), Plan(0.6, ties=0), Plan(0.6, raters=10), Plan(0.57, raters=10),
     Plan(0.6, raters=10, overlap=3, prompt_correlation=0.2, rater_correlation=0.02)],
)  # fmt: skip
def test_the_power_is_right_over_a_range_of_plans(asked: Plan):
    votes = votes_needed(asked)
    assert votes is not None
    assert simulated_power(asked, votes, 10_000, seed=2) == pytest.approx(power_of(asked, votes), abs=0.02)


def test_the_command_prints_votes_hours_and_cost(capsys: Any):
    assert main(["plan", "effect=0.6", "hourly=15", "seconds=60"]) == 0
    text = capsys.readouterr().out
    votes = votes_needed(Plan(0.6))
    assert votes == 210 and "210 votes: 105 prompts, each for 2 of 20 raters" in text
    assert "3.5 at 60 s per vote" in text and "52.50 at 15 per hour" in text and "155 votes" in text


def test_too_few_raters_are_named(capsys: Any):
    assert main(["plan", "effect=0.53", "raters=5", "rater_correlation=0.05"]) == 0
    assert "no number of votes is enough with 5 raters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["effect=0.5"], "0.5 is no difference"), (["effect=2"], "effect=2: expected a number from 0 to 1"),
        (["effect=0.95", "ties=0.2"], "a win rate is from 0.1 to 0.9"), (["effect=x", "raters=1"], "raters=1"),
        (["effect=0.6", "overlap=30"], "overlap=30: is more than the 20 raters"), ([], "effect is missing: "),
    ],
)  # fmt: skip
def test_impossible_plans_are_refused(words: list[str], text: str):
    with pytest.raises(ConfigError, match=text):
        main(["plan", *words])
