"""Cross-entropy of the next token."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distft.data.batches import Batch
from distft.losses.projected import Projected


@dataclass(frozen=True)
class CrossEntropy:
    """Sums -log p(target) in nats over the batch's targets; additive over any split of a batch.

    label_smoothing: share of the probability spread over the whole vocabulary (Szegedy et al. 2016), for training.
    """

    label_smoothing: float = 0.0

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        causal: Any = model
        hidden = causal.base_model(**batch.inputs()).last_hidden_state  # [1, S, H]
        smoothing = self.label_smoothing if model.training else 0.0
        soft_cap = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)
        fold = Projected(batch.targets, smoothing, soft_cap)
        loss, correct = causal.get_output_embeddings()(hidden[0, batch.positions], fold)
        return loss, {"correct": correct}
