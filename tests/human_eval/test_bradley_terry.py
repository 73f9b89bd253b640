"""Strengths equal those of evalica, statsmodels and closed forms."""

import evalica
import numpy as np
import pytest
import statsmodels.api as sm

from distft.human_eval.bradley_terry import Votes, davidson, design_matrix, length_controlled, strengths
from distft.human_eval.intervals import clustered


def make(seed: int, systems: int = 4, count: int = 400, ties: float = 0.2) -> Votes:
    rng = np.random.default_rng(seed)
    pairs = np.array([rng.choice(systems, 2, replace=False) for _ in range(count)])
    beta = np.linspace(-0.6, 0.6, systems)
    wins = rng.random(count) < 1 / (1 + np.exp(-(beta[pairs[:, 0]] - beta[pairs[:, 1]])))
    scores = np.where(rng.random(count) < ties, 0.5, wins).astype(np.float64)
    return Votes(pairs[:, 0], pairs[:, 1], scores, rng.integers(10, size=count), rng.integers(50, size=count))


@pytest.mark.parametrize("seed", range(3))
def test_strengths_are_those_of_evalica(seed: int):
    votes = make(seed)
    outcome = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    winners = [outcome[score] for score in votes.scores]
    found = strengths(votes, 4)
    assert found is not None
    fit = evalica.bradley_terry(
        [str(i) for i in votes.first],
        [str(i) for i in votes.second],
        winners,
        tie_weight=0.5,
        tolerance=1e-12,
        limit=10000,
    )
    log = np.log(fit.scores.reindex([str(i) for i in range(4)]).to_numpy())
    assert [each.value for each in found] == pytest.approx(log - log.mean(), abs=1e-6)


def test_strengths_and_intervals_are_those_of_a_glm():
    votes = make(7, systems=3)
    x = design_matrix(votes.first, votes.second, 3)[:, 1:]  # the first system is the reference
    with np.errstate(all="ignore"):
        fit = sm.GLM(votes.scores, x, family=sm.families.Binomial()).fit(tol=1e-14)
    found = strengths(votes, 3)
    assert found is not None
    assert [each.value - found[0].value for each in found[1:]] == pytest.approx(fit.params, abs=1e-6)


def test_two_systems_have_the_log_odds_of_their_win_rate():
    votes = make(2, systems=2)
    scores = np.where(votes.first == 0, votes.scores, 1 - votes.scores)
    found, rate = strengths(votes, 2), clustered(scores, votes.raters, votes.prompts)
    assert found is not None and rate is not None and found[0].low is not None and found[0].high is not None
    assert 2 * found[0].value == pytest.approx(np.log(scores.mean() / (1 - scores.mean())), abs=1e-9)
    interval = [1 / (1 + np.exp(-2 * end)) for end in (found[0].low, found[0].high)]
    assert interval == pytest.approx([rate.low, rate.high], abs=1e-9)


def test_davidson_of_two_systems_is_the_closed_form():
    wins, losses, ties = 30, 18, 12
    scores = np.array([1.0] * wins + [0.0] * losses + [0.5] * ties)
    n = len(scores)
    fit = davidson(Votes(np.zeros(n, int), np.ones(n, int), scores, np.arange(n), np.arange(n)), 2)
    assert fit is not None
    assert fit[0][0] - fit[0][1] == pytest.approx(np.log(wins / losses), abs=1e-6)
    assert fit[1] == pytest.approx(ties / np.sqrt(wins * losses), abs=1e-6)


def test_davidson_is_a_maximum_of_the_likelihood():
    votes = make(4)
    fit = davidson(votes, 4)
    assert fit is not None

    def likelihood(beta: np.ndarray, nu: float) -> float:
        one, other = np.exp(beta[votes.first]), np.exp(beta[votes.second])
        tie = nu * np.sqrt(one * other)
        shares = np.where(votes.scores == 1, one, np.where(votes.scores == 0, other, tie)) / (one + other + tie)
        return float(np.log(shares).sum())

    best = likelihood(*fit)
    for i in range(4):
        moved = fit[0] + 1e-3 * np.eye(4)[i]
        assert likelihood(moved, fit[1]) < best and likelihood(2 * fit[0] - moved, fit[1]) < best
    assert likelihood(fit[0], fit[1] * 1.001) < best and likelihood(fit[0], fit[1] / 1.001) < best


def test_without_ties_davidson_is_bradley_terry():
    votes = make(5, ties=0)
    fit, plain = davidson(votes, 4), strengths(votes, 4)
    assert fit is not None and plain is not None and fit[1] == 0
    assert fit[0] == pytest.approx([each.value for each in plain], abs=1e-9)


def test_a_system_that_wins_every_vote_has_no_finite_strength():
    n = 6
    votes = Votes(np.zeros(n, int), np.ones(n, int), np.ones(n), np.arange(n), np.arange(n))
    assert strengths(votes, 2) is None and davidson(votes, 2) is None


def test_length_control_is_a_logistic_regression():
    rng = np.random.default_rng(0)
    extra = rng.normal(100, 300, 500)
    scores = (rng.random(500) < 1 / (1 + np.exp(-(0.2 + 0.8 * np.tanh(extra / extra.std()))))).astype(np.float64)
    x = np.stack([np.ones(500), np.tanh(extra / extra.std())], 1)
    fit = sm.Logit(scores, x).fit(disp=False, tol=1e-14)
    assert length_controlled(scores, extra) == pytest.approx(1 / (1 + np.exp(-fit.params[0])), abs=1e-6)
    assert scores.mean() > 1 / (1 + np.exp(-fit.params[0]))  # a part of the wins was length
    assert length_controlled(scores, np.full(500, 3.0)) is None
    assert length_controlled((extra > 0) * 1.0, extra) is None
