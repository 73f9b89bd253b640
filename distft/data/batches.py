"""Rows become tensors: one micro-batch on one process.

Rows are padded on the right and no attention mask is made: under a causal mask no real token sees what is behind it.
"""

from dataclasses import dataclass

import numpy as np
import torch

from distft.data.shards import Rows


@dataclass(frozen=True)
class Batch:
    """A micro-batch. T counts its targets: tokens that are trained and have a token before them."""

    input_ids: torch.Tensor  # [B, S] int64
    positions: torch.Tensor  # [T] int64, index into B*S of the token before each target
    targets: torch.Tensor  # [T] int64

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self
        parts = (self.input_ids, self.positions, self.targets)
        return Batch(*(part.pin_memory().to(device, non_blocking=True) for part in parts))


def collate(rows: Rows, indices: np.ndarray) -> Batch:
    """Returns the rows at `indices` as one batch; no index gives a batch of one token and no target."""
    picked = [rows[int(index)] for index in indices]
    width = max((len(row.input_ids) for row in picked), default=1)
    input_ids = np.zeros((max(len(picked), 1), width), np.int64)
    trained = np.zeros(input_ids.shape, bool)
    for i, row in enumerate(picked):
        input_ids[i, : len(row.input_ids)] = row.input_ids
        trained[i, : len(row.trained)] = row.trained
    trained[:, 0] = False  # nothing stands before the first token
    at = np.flatnonzero(trained)
    return Batch(torch.from_numpy(input_ids), torch.from_numpy(at - 1), torch.from_numpy(input_ids.reshape(-1)[at]))
