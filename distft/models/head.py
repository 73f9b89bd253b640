"""The model's last layer, which can hand its weight to a function instead of projecting every position.

A loss has to run inside the layer's own forward: only there have all strategies put the whole weight together.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

Fold = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], Any]  # of hidden states, weight [V, H], bias [V]


class Head(nn.Linear):
    """A linear layer that, given `fold`, returns what it makes of the hidden states and the layer's weight."""

    def forward(self, input: torch.Tensor, fold: Fold | None = None) -> Any:
        return super().forward(input) if fold is None else fold(input, self.weight, self.bias)


def make_foldable(model: PreTrainedModel) -> None:
    """Makes the model's head a Head, with the names, weights and hooks it has; ValueError when it is not linear."""
    head: Any = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise ValueError(f"{type(model).__name__} ends in a {type(head).__name__}; only linear heads are supported")
    head.__class__ = Head
