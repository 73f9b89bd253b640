"""Losses: `(model, batch) -> (sum over the units of the batch, further sums by name)`.

A loss of labels puts `outputs`, [U, C], among its sums: evaluation needs them for metrics that are no sums, such as
F1. Training adds up the others. Additive means: the sum over a batch is the sum over the parts of any split of it.
"""

import torch

from distft.data.batches import Batch

OUTPUTS = "outputs"  # of the sums the one that is no sum: one row per unit


def labels_of(batch: Batch, outputs: torch.Tensor) -> torch.Tensor:
    """Returns the labels of the batch [U, L]; of a batch without rows [0, C], like its outputs."""
    return outputs.new_zeros(0, outputs.shape[1]) if batch.labels is None else batch.labels


def total(values: torch.Tensor, batch: Batch, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Returns the sum of the units' values [U]; the values themselves where the batch is evaluated by unit."""
    return values if batch.by_unit else values.sum(dtype=dtype)


def weighted_sum(losses: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Returns the sum of losses [U] times the weights of the units, fp64."""
    return total(losses if batch.weights is None else losses * batch.weights, batch, torch.float64)
