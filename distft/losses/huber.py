"""Huber's loss of a row's values, for regression with outliers: squared near zero, linear beyond delta."""

import torch
from torch import nn
from torch.nn import functional as F

from distft.data.batches import Batch
from distft.losses import labels_of, weighted_sum
from distft.losses.mse import errors
from distft.models.heads import outputs


class Huber:
    """Sums Huber's loss, the mean over a row's values, over the rows; additive over any split of them."""

    def __init__(self, delta: float = 1.0) -> None:
        """delta: the error at which the loss turns from squared to linear (Huber 1964), as in torch.nn.HuberLoss."""
        self.delta = delta

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        found = outputs(model, batch)  # [U, D]
        losses = F.huber_loss(found, labels_of(batch, found), reduction="none", delta=self.delta).mean(1)
        return weighted_sum(losses, batch), errors(found, batch)
