"""Binary cross-entropy of every class, for rows that several classes may apply to."""

import torch
from torch import nn
from torch.nn import functional as F

from distft.data.batches import Batch
from distft.losses import OUTPUTS, labels_of, total, weighted_sum
from distft.models.heads import outputs


class BinaryCrossEntropy:
    """Sums the binary cross-entropy in nats, the mean over the classes, over the rows; additive over any split."""

    def __init__(self, positive_weight: float = 1.0) -> None:
        """positive_weight: of classes that apply, over those that do not, as pos_weight of torch.nn.BCEWithLogitsLoss
        has it; for classes that rarely apply."""
        self.positive_weight = positive_weight

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        found = outputs(model, batch)  # [U, C]
        labels = labels_of(batch, found)
        weights = 1 + (self.positive_weight - 1) * labels
        losses = F.binary_cross_entropy_with_logits(found, labels, weights, reduction="none").mean(1)
        found = found.detach()
        all_right = total(((found >= 0) == (labels > 0.5)).all(1), batch)
        return weighted_sum(losses, batch), {"correct": all_right, OUTPUTS: found}
