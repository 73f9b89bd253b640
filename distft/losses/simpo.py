"""SimPO: simple preference optimization without a reference (Meng et al. 2024, arXiv 2405.14734)."""

from dataclasses import dataclass

import torch
from torch import nn

from distft.data.batches import Batch
from distft.losses.preference import Answers, Scored, Sums, sigmoid_loss, sum_over_pairs


@dataclass(frozen=True)
class SimPO:
    """-log sigmoid(difference of rewards - gamma); a reward is beta times the mean log-probability of a token.

    gamma: margin that the chosen answer must exceed, in the unit of a reward. label_smoothing: probability that a pair
    is labelled the wrong way round.
    """

    beta: float = 2.0
    gamma: float = 1.0
    label_smoothing: float = 0.0

    unit = "pair"

    def of_pairs(self, chosen: Answers, rejected: Answers) -> Scored:
        """Returns loss and rewards of each pair."""
        better, worse = self.beta * chosen.per_token, self.beta * rejected.per_token
        return Scored(sigmoid_loss(better - worse - self.gamma, self.label_smoothing), better, worse)

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Sums]:
        return sum_over_pairs(model, batch, self.of_pairs, None)
