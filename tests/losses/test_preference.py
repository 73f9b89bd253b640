"""Each preference loss has its paper's value, gradient and rewards, as functions of log-probabilities of documents."""

import math
from collections.abc import Callable

import pytest
import torch

from distft.data.batches import make_batch
from distft.losses.dpo import DPO
from distft.losses.ipo import IPO
from distft.losses.kto import KTO
from distft.losses.orpo import ORPO
from distft.losses.preference import Answers, Scored, pair_sums
from distft.losses.reward import Reward
from distft.losses.simpo import SimPO

# log p of chosen and rejected, under model and reference, and their tokens
PAIRS = ((-3.0, -4.0, -3.5, -3.2, 4, 2), (-20.0, -2.0, -19.0, -2.5, 10, 1), (-7.0, -7.0, -7.0, -7.0, 3, 5))


def answers() -> tuple[Answers, Answers]:
    table = torch.tensor(PAIRS, dtype=torch.float64)
    chosen, rejected, its, other, tokens, others = table.T
    return Answers(chosen.clone().requires_grad_(), tokens, its), Answers(
        rejected.clone().requires_grad_(), others, other
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def dpo(c: float, r: float, rc: float, rr: float, n: int, m: int, beta: float = 0.1) -> tuple[float, float, float]:
    better, worse = beta * (c - rc), beta * (r - rr)
    return -math.log(sigmoid(better - worse)), better, worse


def smoothed(c: float, r: float, rc: float, rr: float, n: int, m: int) -> tuple[float, float, float]:
    _, better, worse = dpo(c, r, rc, rr, n, m)
    x = better - worse
    return -0.8 * math.log(sigmoid(x)) - 0.2 * math.log(sigmoid(-x)), better, worse


def per_token(c: float, r: float, rc: float, rr: float, n: int, m: int) -> tuple[float, float, float]:
    return dpo(c / n, r / m, rc / n, rr / m, n, m)


def ipo(c: float, r: float, rc: float, rr: float, n: int, m: int) -> tuple[float, float, float]:
    better, worse = (c - rc) / n, (r - rr) / m
    return (better - worse - 1 / (2 * 0.2)) ** 2, 0.2 * better, 0.2 * worse


def simpo(c: float, r: float, rc: float, rr: float, n: int, m: int) -> tuple[float, float, float]:
    better, worse = 2 * c / n, 2 * r / m
    return -math.log(sigmoid(better - worse - 0.5)), better, worse


def orpo(c: float, r: float, rc: float, rr: float, n: int, m: int) -> tuple[float, float, float]:
    p, q = math.exp(c / n), math.exp(r / m)
    ratio = math.log((p / (1 - p)) / (q / (1 - q)))
    return -c / n - 0.3 * math.log(sigmoid(ratio)), 0.3 * c / n, 0.3 * r / m


Closed = Callable[..., tuple[float, float, float]]
CASES: dict[str, tuple[Callable[[Answers, Answers], Scored], Closed]] = {
    "dpo": (DPO().of_pairs, dpo),
    "dpo_smoothed": (DPO(label_smoothing=0.2).of_pairs, smoothed),
    "dpo_per_token": (DPO(length_normalized=True).of_pairs, per_token),
    "ipo": (IPO(beta=0.2).of_pairs, ipo),
    "simpo": (SimPO(beta=2.0, gamma=0.5).of_pairs, simpo),
    "orpo": (ORPO(beta=0.3).of_pairs, orpo),
}


@pytest.mark.parametrize(("of_pairs", "closed"), CASES.values(), ids=list(CASES))
def test_losses_and_rewards_are_the_closed_forms(
    of_pairs: Callable[[Answers, Answers], Scored], closed: Closed
) -> None:
    scored = of_pairs(*answers())
    for i, pair in enumerate(PAIRS):
        found = scored.losses[i].item(), scored.chosen[i].item(), scored.rejected[i].item()
        assert found == pytest.approx(closed(*pair), rel=1e-12)


@pytest.mark.parametrize(("of_pairs", "closed"), CASES.values(), ids=list(CASES))
def test_gradients_are_differences_of_the_closed_forms(
    of_pairs: Callable[[Answers, Answers], Scored], closed: Closed
) -> None:
    chosen, rejected = answers()
    of_pairs(chosen, rejected).losses.sum().backward()
    step = 1e-5
    for i, pair in enumerate(PAIRS):
        for side, answer in enumerate((chosen, rejected)):
            moved = [
                closed(*(value + sign * step * (k == side) for k, value in enumerate(pair)))[0] for sign in (1, -1)
            ]
            assert answer.log_probabilities.grad is not None
            found = answer.log_probabilities.grad[i].item()
            assert found == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-5, abs=1e-8)


def test_kto_has_the_papers_value_at_a_fixed_reference_point() -> None:
    loss = KTO(beta=0.5, desirable_weight=1.5, undesirable_weight=0.75, reference_point=0.2)
    ratios = torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64)
    found = loss.losses(ratios, torch.tensor([True, False, False]))
    expected = [1.5 * (1 - sigmoid(0.5 * (1.0 - 0.2)))]
    expected += [0.75 * (1 - sigmoid(0.5 * (0.2 - ratio))) for ratio in (-2.0, 0.3)]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_rewards_are_compared_and_centred() -> None:
    chosen, rejected = (torch.tensor([value], dtype=torch.float64) for value in (1.2, 0.7))
    scored = Reward(center=0.1, margin=0.25).of_pairs(chosen, rejected)
    assert scored.losses.item() == pytest.approx(-math.log(sigmoid(0.25)) + 0.1 * 1.9**2, rel=1e-12)
    assert (scored.chosen.item(), scored.rejected.item()) == (1.2, 0.7)


def test_losses_far_from_zero_keep_their_digits() -> None:
    """exp(-1e-9) is 1 in fp32, and the log of its odds would be infinite."""
    sure = Answers(torch.tensor([-1e-9], dtype=torch.float64), torch.ones(1))
    never = Answers(torch.tensor([-900.0], dtype=torch.float64), torch.ones(1))
    assert ORPO(beta=1.0).of_pairs(sure, never).losses.item() == pytest.approx(1e-9, rel=1e-6)
    assert ORPO(beta=1.0).of_pairs(never, sure).losses.item() == pytest.approx(900 + 900 + math.log(1e9), rel=1e-6)
    assert SimPO(beta=1.0, gamma=0.0).of_pairs(never, sure).losses.item() == pytest.approx(900)


def test_metrics_are_sums_over_pairs_and_a_tie_is_not_right() -> None:
    chosen, rejected = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 4.0, 3.0])
    sums = pair_sums(Scored(torch.zeros(3), chosen, rejected), make_batch([]))
    found = {name: value.item() for name, value in sums.items()}
    assert found == {"preference_accuracy": 1.0, "margin": -1.5, "reward_chosen": 6.0, "reward_rejected": 7.5}
