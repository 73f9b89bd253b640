"""Cost of a row: floating-point operations of matrix products, counted from the model's layers.

A multiplication and an addition are two operations. Norms, activations and rotary angles are not counted.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from distft.models.build import blocks


@dataclass(frozen=True)
class Flops:
    """Operations of one forward pass: per token, per (token, attended token) pair, and per target."""

    per_token: float
    per_pair: float  # in one layer
    per_target: float
    windows: dict[int | None, int]  # attention window in tokens, itself included -> number of layers; None: full

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Flops":
        """Counts the operations of a model, adapters included; it may be on meta."""
        config, found = model.config.get_text_config(), blocks(model)
        linear = [
            module
            for block in found.values()
            for module in block.modules()
            if isinstance(module, nn.Linear | Conv1D) and module.weight.ndim == 2
        ]
        heads = config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
        outputs = config.vocab_size if model.get_output_embeddings() is not None else config.num_labels or 1
        return cls(
            per_token=2.0 * sum(module.weight.numel() for module in linear),
            per_pair=4.0 * heads * head_size,
            per_target=2.0 * outputs * config.hidden_size,
            windows=_windows(model, len(found)),
        )

    def of_rows(self, lengths: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Returns the operations of the forward pass of each row, float64 [rows]; the head projects targets only.

        lengths, targets: tokens and targets of each row, [rows].
        """
        lengths = lengths.astype(np.float64)
        pairs = sum(count * _pairs(lengths, window) for window, count in self.windows.items())
        return self.per_token * lengths + self.per_pair * pairs + self.per_target * targets


def _pairs(lengths: np.ndarray, window: int | None) -> np.ndarray:
    """Returns the number of (token, attended token) pairs of causal attention, float64 [rows]."""
    seen = lengths if window is None else np.minimum(lengths, window)
    return seen * (seen + 1) / 2 + (lengths - seen) * seen


def _windows(model: PreTrainedModel, num_layers: int) -> dict[int | None, int]:
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) is False:
        window = None
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return {window: num_layers}
    return dict(Counter(window if kind == "sliding_attention" else None for kind in kinds))
