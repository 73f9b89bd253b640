"""Cross-entropy of the next token."""

from typing import Any

import torch
from torch import nn

from distft.data.batches import Batch
from distft.losses.projected import Projected, of_chunk
from distft.runtime.compiling import compiled


class CrossEntropy:
    """Sums -log p(target) in nats over the batch's targets; additive over any split of a batch."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        """label_smoothing: share of the probability spread over the whole vocabulary (Szegedy et al. 2016), for
        training."""
        self.label_smoothing = label_smoothing
        self.of_chunk = of_chunk

    def compile_chunks(self) -> None:
        """Has what is done to a chunk's logits in bf16 compiled, which else reads and writes them ten times."""
        self.of_chunk = compiled(of_chunk)

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        causal: Any = model
        hidden = causal.base_model(**batch.inputs()).last_hidden_state  # [1, S, H]
        smoothing = self.label_smoothing if model.training else 0.0
        soft_cap = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)
        fold = Projected(batch.targets, smoothing, soft_cap, self.of_chunk)
        hidden, factor = hidden[0, batch.positions], logit_factor(causal.config)  # [T, H]
        loss, correct = causal.get_output_embeddings()(hidden if factor == 1 else hidden * factor, fold)
        return loss, {"correct": correct}


def logit_factor(config: Any) -> float:
    """Returns what the model's class multiplies its logits by behind the head: Cohere's and Granite's do."""
    text = config.get_text_config()
    return (getattr(text, "logit_scale", None) or 1.0) / (getattr(text, "logits_scaling", None) or 1.0)
