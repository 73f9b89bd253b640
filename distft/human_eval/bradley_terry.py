"""Strengths of systems from pairwise votes: Bradley-Terry with ties as half a win, Davidson's model of ties, and a
logistic regression that takes out the length of the answers.

Written here since it is 100 lines of numpy: evalica, against which it is tested, brings pandas and no clustered errors.
"""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from distft.human_eval.intervals import Floats, Ints, two_way_variance

_SMALL = 1e-9
_LARGEST = 15.0  # log-odds; beyond, the votes are separated and the maximum is at infinity


@dataclass(frozen=True)
class Votes:
    """Pairwise votes by index. scores: [votes], 1 where `first` won, 0.5 tie, 0 where `second` won."""

    first: Ints
    second: Ints
    scores: Floats
    raters: Ints
    prompts: Ints


@dataclass(frozen=True)
class Strength:
    """Log-odds over the mean system, with a 95% interval; None where there are too few clusters."""

    value: float
    low: float | None
    high: float | None


def design_matrix(first: Ints, second: Ints, systems: int) -> Floats:
    """Returns [votes, systems]: 1 for the first system of a vote, -1 for the second."""
    x = np.zeros((len(first), systems))
    x[np.arange(len(first)), first] = 1.0
    x[np.arange(len(first)), second] -= 1.0
    return x


def logistic(x: Floats, y: Floats, ridge: float = 0.0) -> tuple[Floats, Floats]:
    """Returns the coefficients of a logistic regression by Newton's method, and the pseudo-inverse Hessian.

    x: [rows, features]. y: [rows] in [0, 1]. Raises ArithmeticError when no finite maximum exists.
    """
    beta = np.zeros(x.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-x @ beta))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge * np.eye(x.shape[1])
        inverse = np.linalg.pinv(hessian, rcond=1e-10, hermitian=True)
        step = inverse @ (x.T @ (y - p) - ridge * beta)
        beta = beta + step
        if not np.all(np.abs(beta) < _LARGEST):
            break
        if np.abs(step).max() < 1e-11:
            return beta, inverse.astype(np.float64)
    raise ArithmeticError("one system won every vote: its strength has no finite estimate")


def strengths(votes: Votes, systems: int) -> list[Strength] | None:
    """Returns Bradley-Terry strengths with ties as half a win; None when a strength is infinite.

    The intervals are clustered by rater and prompt, as in `intervals`.
    """
    x = design_matrix(votes.first, votes.second, systems)
    try:
        beta, inverse = logistic(x, votes.scores)
    except ArithmeticError:
        return None
    residuals = votes.scores - 1 / (1 + np.exp(-x @ beta))
    influence = (x * residuals[:, None]) @ inverse  # [votes, systems]
    beta = beta - beta.mean()
    counts = [len(np.unique(groups)) for groups in (votes.raters, votes.prompts)]
    found = []
    for system in range(systems):
        variance = _two_way(influence[:, system], votes.raters, votes.prompts)
        freedom = (min(counts) if min(counts) > 1 else max(counts)) - 1
        if freedom < 1 or not np.isfinite(variance):
            found.append(Strength(float(beta[system]), None, None))
            continue
        width = float(stats.t.ppf(0.975, freedom)) * float(np.sqrt(variance))
        found.append(Strength(float(beta[system]), float(beta[system]) - width, float(beta[system]) + width))
    return found


def _two_way(influence: Floats, raters: Ints, prompts: Ints) -> float:
    """Returns the clustered variance of a sum of influences: that of their mean, times the number squared."""
    return two_way_variance(influence, raters, prompts)[0] * len(influence) ** 2


def davidson(votes: Votes, systems: int) -> tuple[Floats, float] | None:
    """Returns log strengths over their mean and Davidson's tie parameter nu; None when there is no finite maximum.

    P(first wins) = p1 / D, P(tie) = nu sqrt(p1 p2) / D, D = p1 + p2 + nu sqrt(p1 p2) (Davidson 1970).
    """
    x = design_matrix(votes.first, votes.second, systems)
    won, lost = votes.scores == 1, votes.scores == 0
    ties = float((~won & ~lost).sum())
    if ties == 0:
        try:
            beta, _ = logistic(x, votes.scores)
        except ArithmeticError:
            return None
        return beta - beta.mean(), 0.0

    def loss(theta: Floats) -> tuple[float, Floats]:
        half = x @ theta[:-1] / 2
        terms = np.stack([half, np.full_like(half, theta[-1]), -half])
        top = terms.max(0)
        weights = np.exp(terms - top)
        total = weights.sum(0)
        chosen = np.where(won, half, np.where(lost, -half, theta[-1]))
        p = weights / total
        slope = 0.5 * (np.where(won, 1.0, 0.0) - np.where(lost, 1.0, 0.0) - p[0] + p[2])
        gradient = np.append(x.T @ slope, (~won & ~lost).sum() - p[1].sum())
        return -float((chosen - top - np.log(total)).sum()), -gradient

    options = {"gtol": 1e-9 * len(x)}
    done = optimize.minimize(loss, np.zeros(systems + 1), jac=True, method="BFGS", options=options)
    beta = done.x[:-1] - done.x[:-1].mean()
    if np.abs(beta).max() > _LARGEST or done.x[-1] > _LARGEST:
        return None
    return beta, float(np.exp(done.x[-1]))


def length_controlled(scores: Floats, extra: Floats) -> float | None:
    """Returns the win rate at equal length: a logistic regression on tanh of the standardized difference of lengths.

    scores, extra: [votes]; extra: length of the first answer over the second's, in characters. As in AlpacaEval's
    length-controlled win rate, without its term for the prompt. None where lengths do not differ or separate the votes.
    """
    spread = float(extra.std())
    if spread < _SMALL:
        return None
    x = np.stack([np.ones_like(extra), np.tanh(extra / spread)], 1)
    try:
        beta, _ = logistic(x, scores)
    except ArithmeticError:
        return None
    return float(1 / (1 + np.exp(-beta[0])))
