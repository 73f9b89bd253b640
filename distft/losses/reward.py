"""Pairwise reward: the Bradley-Terry model of which answer is preferred (Bradley and Terry 1952)."""

from dataclasses import dataclass

import torch
from torch import nn

from distft.data.batches import Batch
from distft.losses import weighted_sum
from distft.losses.preference import Scored, Sums, first_documents, pair_sums, sigmoid_loss
from distft.models.heads import outputs


@dataclass(frozen=True)
class Reward:
    """-log sigmoid(reward of the chosen - reward of the rejected answer - margin) of each pair.

    A reward is the output of the head at the last token of a document. center: weight of (sum of both rewards)^2, which
    draws their mean to zero (Eisenstein et al. 2023, arXiv 2312.09244).
    """

    center: float = 0.0
    margin: float = 0.0

    unit = "pair"

    def of_pairs(self, chosen: torch.Tensor, rejected: torch.Tensor) -> Scored:
        """Returns loss and rewards of each pair. chosen, rejected: rewards, [P]."""
        losses = sigmoid_loss(chosen - rejected - self.margin)
        if self.center:
            losses = losses + self.center * (chosen + rejected).square()
        return Scored(losses, chosen, rejected)

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Sums]:
        rewards = outputs(model, batch, at=batch.starts[1:].long() - 1)[:, 0].double()  # [D], of the last tokens
        first = first_documents(batch)
        scored = self.of_pairs(rewards[first], rewards[first + 1])
        value = weighted_sum(scored.losses, batch) + rewards.sum() * 0.0  # also of a batch without rows
        return value, pair_sums(scored, batch)
