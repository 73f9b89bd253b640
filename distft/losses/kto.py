"""KTO: answers that are desirable or not, one at a time (Ethayarajh et al. 2024, arXiv 2402.01306)."""

from dataclasses import dataclass

import torch
from torch import nn

from distft.data.batches import Batch
from distft.losses import total, weighted_sum
from distft.losses.log_probabilities import log_probabilities
from distft.losses.preference import Reference, Sums, anchor, answers_of, reference_of


@dataclass(frozen=True)
class KTO:
    """weight (1 - sigmoid(reward - z)) for desirable answers, weight (1 - sigmoid(z - reward)) for others.

    The reward of an answer is beta log(p / p_reference), and z is beta times reference_point, in nats. The paper
    estimates it as the divergence from the reference over the rows of a micro-batch, so an update would depend on how
    a batch is split; a constant does not. desirable_weight, undesirable_weight: of the two kinds, for data with more
    of one.
    """

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    reference_point: float = 0.0
    reference: Reference = "auto"

    unit = "row"

    def losses(self, ratios: torch.Tensor, desirable: torch.Tensor) -> torch.Tensor:
        """Returns the loss of each answer, [R]. ratios: log(p / p_reference). desirable: bool."""
        good = desirable.to(ratios.dtype)
        sign, weight = 2 * good - 1, good * self.desirable_weight + (1 - good) * self.undesirable_weight
        return weight * (1 - torch.sigmoid(sign * self.beta * (ratios - self.reference_point)))

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Sums]:
        """Returns the sum over the rows, and the sums of the rewards of both kinds and of their numbers.

        preference_accuracy: answers whose reward is on their label's side of the reference point.
        """
        frozen = reference_of(model, batch, self.reference, num_sides=1)
        documents = log_probabilities(model, batch)
        ratios = answers_of(documents, batch, 0, frozen).ratios  # [R]
        desirable = desirable_of(batch)
        value = weighted_sum(self.losses(ratios, desirable), batch) + anchor(documents)
        rewards = self.beta * ratios.detach()
        right = (rewards > self.beta * self.reference_point) == desirable
        return value, {
            "preference_accuracy": total(right, batch, rewards.dtype),
            "reward_chosen": total(rewards * desirable, batch),
            "reward_rejected": total(rewards * ~desirable, batch),
            "desirable": total(desirable, batch, rewards.dtype),
        }


def desirable_of(batch: Batch) -> torch.Tensor:
    """Returns whether each answer is desirable, [R] bool; the label of a row is 1 or 0."""
    if batch.labels is None:
        return torch.zeros(0, dtype=torch.bool, device=batch.input_ids.device)
    return batch.labels[:, 0] > 0
