"""DPO: direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290)."""

from dataclasses import dataclass

import torch
from torch import nn

from distft.data.batches import Batch
from distft.losses.preference import Answers, Reference, Scored, Sums, sigmoid_loss, sum_over_pairs


@dataclass(frozen=True)
class DPO:
    """-log sigmoid of the difference of rewards; the reward of an answer is beta log(p / p_reference).

    beta: how strongly the model is held to the reference. label_smoothing: probability that a pair is labelled the
    wrong way round (conservative DPO). length_normalized: a reward is per token of its answer.
    reference: where the log-probabilities of the frozen base come from: the model without its adapters, or stored;
    auto: adapter with adapters, else stored.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    length_normalized: bool = False
    reference: Reference = "auto"

    unit = "pair"

    def of_pairs(self, chosen: Answers, rejected: Answers) -> Scored:
        """Returns loss and rewards of each pair."""
        better, worse = self.reward(chosen), self.reward(rejected)
        return Scored(sigmoid_loss(better - worse, self.label_smoothing), better, worse)

    def reward(self, answers: Answers) -> torch.Tensor:
        ratios = answers.ratios / answers.counts if self.length_normalized else answers.ratios
        return self.beta * ratios

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Sums]:
        return sum_over_pairs(model, batch, self.of_pairs, self.reference)
