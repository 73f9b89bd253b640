"""Cross-entropy of the next token."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from distft.data.batches import Batch


@dataclass(frozen=True)
class CrossEntropy:
    """Sums -log p(target) in nats over the batch's targets; additive over any split of a batch.

    label_smoothing: share of the probability spread over the whole vocabulary (Szegedy et al. 2016), for training.
    """

    label_smoothing: float = 0.0

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = model(input_ids=batch.input_ids, use_cache=False).logits  # [B, S, V]
        logits = logits.flatten(0, 1)[batch.positions].float()  # [T, V]
        smoothing = self.label_smoothing if model.training else 0.0
        losses = F.cross_entropy(logits, batch.targets, reduction="none", label_smoothing=smoothing)  # [T]
        correct = (logits.detach().argmax(-1) == batch.targets).sum()
        return losses.double().sum(), {"correct": correct}
