"""The model's own outputs, taken through the one forward that every strategy wraps."""

import torch
from torch import nn

from distft.data.batches import Batch


def logits(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Has no value to train on; the logits of every position come as a metric, [1, S, V] in fp32."""
    output = model(**batch.inputs()).logits
    return output.sum() * 0, {"logits": output.float()}
