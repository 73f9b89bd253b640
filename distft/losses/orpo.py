"""ORPO: odds ratio preference optimization without a reference (Hong et al. 2024, arXiv 2403.07691)."""

from dataclasses import dataclass

import torch
from torch import nn

from distft.data.batches import Batch
from distft.losses.preference import Answers, Scored, Sums, sigmoid_loss, sum_over_pairs


def log_odds(log_probabilities: torch.Tensor) -> torch.Tensor:
    """Returns log(p / (1 - p)) of log p < 0; p near 1 keeps its digits."""
    return log_probabilities - torch.log(-torch.expm1(log_probabilities))


@dataclass(frozen=True)
class ORPO:
    """Mean cross-entropy of the chosen answer's tokens, plus beta times -log sigmoid of the log odds ratio.

    The odds are those of a token's geometric mean probability. Rewards are beta times that mean's log, as in TRL.
    """

    beta: float = 0.1

    unit = "pair"

    def of_pairs(self, chosen: Answers, rejected: Answers) -> Scored:
        """Returns loss and rewards of each pair."""
        better, worse = chosen.per_token, rejected.per_token
        losses = self.beta * sigmoid_loss(log_odds(better) - log_odds(worse)) - better
        return Scored(losses, self.beta * better, self.beta * worse)

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Sums]:
        return sum_over_pairs(model, batch, self.of_pairs, None)
