"""IPO: identity preference optimization (Azar et al. 2023, arXiv 2310.12036)."""

from dataclasses import dataclass

import torch
from torch import nn

from distft.data.batches import Batch
from distft.losses.preference import Answers, Reference, Scored, Sums, sum_over_pairs


@dataclass(frozen=True)
class IPO:
    """(difference - 1 / (2 beta)) squared, of the mean log(p / p_reference) of a token of each answer.

    The paper's sums over an answer depend on its length; the authors advise means, as TRL has them.
    """

    beta: float = 0.1
    reference: Reference = "auto"

    unit = "pair"

    def of_pairs(self, chosen: Answers, rejected: Answers) -> Scored:
        """Returns loss and rewards of each pair."""
        better, worse = chosen.ratios / chosen.counts, rejected.ratios / rejected.counts
        losses = (better - worse - 1 / (2 * self.beta)).square()
        return Scored(losses, self.beta * better, self.beta * worse)

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Sums]:
        return sum_over_pairs(model, batch, self.of_pairs, self.reference)
