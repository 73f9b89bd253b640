"""The clustered interval covers the true win rate in 95% of studies; one that ignores raters and prompts does not."""

import random

import numpy as np
import pytest

from distft.human_eval.assignment import assign
from distft.human_eval.intervals import bootstrap, clustered, wilson


def truth(mean: float, spread: float, ties: float) -> float:
    """Returns the win rate of the population: the mean over rater and prompt effects, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    wins = (weights / (1 + np.exp(-(mean + spread * nodes)))).sum() / weights.sum()
    return float(ties / 2 + (1 - ties) * wins)


def coverage(
    studies: int, raters: int, prompts: int, overlap: int, effects: tuple[float, float, float], bootstraps: int
):
    """Returns the shares of simulated studies whose interval covers: clustered, by votes alone, by the bootstrap.

    effects: mean log-odds, and the standard deviations of prompts and of raters.
    """
    rng, ties = np.random.default_rng(11), 0.2
    mean, of_prompt, of_rater = effects
    true, hits = truth(mean, float(np.hypot(of_prompt, of_rater)), ties), np.zeros(3)
    names = [str(number) for number in range(prompts)]
    for study in range(studies):
        loads = assign(names, raters, overlap, random.Random(study))
        r = np.repeat(np.arange(raters), [len(load) for load in loads])
        p = np.array([int(item) for load in loads for item in load])
        eta = mean + rng.normal(0, of_prompt, prompts)[p] + rng.normal(0, of_rater, raters)[r]
        wins = rng.random(len(p)) < 1 / (1 + np.exp(-eta))
        scores = np.where(rng.random(len(p)) < ties, 0.5, wins)
        found = [clustered(scores, r, p), wilson(scores.sum(), len(scores))]
        found += [bootstrap(scores, [np.arange(len(scores))], rng)] if study < bootstraps else []
        hits[: len(found)] += [each is not None and each.low <= true <= each.high for each in found]
    return hits / [studies, studies, max(bootstraps, 1)]


@pytest.mark.slow
def test_the_clustered_interval_covers_in_a_small_simulation():
    found = coverage(150, 20, 100, 4, (0.3, 1.0, 0.5), 0)
    assert found[0] >= 0.91 and found[1] <= 0.91


@pytest.mark.soak
@pytest.mark.parametrize(
    ("raters", "prompts", "overlap", "effects"),
    [
        (20, 100, 2, (0.3, 1.0, 0.5)), (20, 100, 4, (0.3, 1.0, 0.5)), (20, 100, 20, (0.3, 1.0, 0.5)),
        (20, 100, 4, (0.0, 0.5, 1.0)), (40, 200, 3, (-0.5, 0.8, 0.4)), (20, 100, 4, (0.3, 0.0, 0.0)),
    ],
)  # fmt: skip
def test_the_interval_covers_in_95_percent_of_studies(raters: int, prompts: int, overlap: int, effects):
    clustered_share, votes_share, bootstrap_share = coverage(1000, raters, prompts, overlap, effects, 200)
    print(
        f"clustered {clustered_share:.1%}, Wilson of votes {votes_share:.1%}, bootstrap of votes {bootstrap_share:.0%}"
    )
    assert 0.93 <= clustered_share <= 0.97
    if overlap >= 4 and effects[2]:  # what ignores raters and prompts is too narrow
        assert votes_share < 0.9 and bootstrap_share < 0.93
