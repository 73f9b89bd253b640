"""Mean squared error of a row's values, for regression."""

import torch
from torch import nn

from distft.data.batches import Batch
from distft.losses import OUTPUTS, labels_of, total, weighted_sum
from distft.models.heads import outputs


class MeanSquaredError:
    """Sums (output - label)^2, the mean over a row's values, over the rows; additive over any split of them."""

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        found = outputs(model, batch)  # [U, D]
        squares = (found - labels_of(batch, found)).square().mean(1)
        return weighted_sum(squares, batch), errors(found, batch)


def errors(found: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
    """Returns the sums of squared and absolute errors over the rows, and the outputs."""
    found = found.detach()
    difference = found.double() - labels_of(batch, found)
    return {
        "squared_error": total(difference.square().mean(1), batch),
        "absolute_error": total(difference.abs().mean(1), batch),
        OUTPUTS: found,
    }
