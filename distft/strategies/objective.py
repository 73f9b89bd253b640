"""The one module that a strategy wraps: model and loss in one forward.

Trap: calling parts of a wrapped model from outside loses gradient sync under DDP silently and raises under FSDP2,
so whatever needs the model's outputs is a loss too.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from distft.data.batches import Batch

Sums = dict[str, torch.Tensor]
Loss = Callable[[nn.Module, Batch], tuple[torch.Tensor, Sums]]


class Objective(nn.Module):
    """Computes a loss of a model: forward(batch) gives the sum over the batch's targets, and further sums."""

    def __init__(self, model: nn.Module, loss: Loss, blocks: Sequence[nn.Module]) -> None:
        """blocks: the repeated parts of the model, which strategies shard and gather one at a time."""
        super().__init__()
        self.model = model
        self.loss = loss
        self.blocks = tuple(blocks)  # a tuple: not registered a second time

    def forward(self, batch: Batch, loss: Loss | None = None) -> tuple[torch.Tensor, Sums]:
        return (loss or self.loss)(self.model, batch)

    def own_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields every parameter under the name it has in the model alone, tied ones once."""
        return self.model.named_parameters()
