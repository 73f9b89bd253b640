"""Rows become tensors: one micro-batch on one process.

A micro-batch is one row of documents, each a row of the data, laid end to end: no token is computed that no document
has. Positions begin again in each, and no document sees another (distft.models.attention).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from distft.data.shards import Row, Rows


@dataclass(frozen=True)
class Batch:
    """A micro-batch of S tokens. T counts its targets: tokens that are trained and have a token before them."""

    input_ids: torch.Tensor  # [1, S] int64
    position_ids: torch.Tensor  # [1, S] int64, from 0 in each document
    lengths: tuple[int, ...]  # [D] tokens of each document
    positions: torch.Tensor  # [T] int64, index into S of the token before each target
    targets: torch.Tensor  # [T] int64
    cost: float = 0.0  # operations of its forward, where that was counted

    def inputs(self) -> dict[str, Any]:
        """Returns the arguments of a transformers model's forward, which hands most of them on to its attention."""
        starts = torch.tensor([0, *np.cumsum(self.lengths)], dtype=torch.int32, device=self.input_ids.device)
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "use_cache": False,
            "document_lengths": self.lengths,
            "cu_seq_lens_q": starts,  # these names are transformers' own, for flash-attention
            "cu_seq_lens_k": starts,
            "max_length_q": max(self.lengths),
            "max_length_k": max(self.lengths),
        }

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self
        input_ids, position_ids, positions, targets = (
            part.pin_memory().to(device, non_blocking=True)
            for part in (self.input_ids, self.position_ids, self.positions, self.targets)
        )
        return Batch(input_ids, position_ids, self.lengths, positions, targets, self.cost)


def make_batch(documents: Sequence[Row], multiple_of: int = 1) -> Batch:
    """Returns documents as one batch; without any, one token and no target.

    multiple_of: what S is filled up to, by a document without targets.
    """
    documents = documents or [Row(np.zeros(1, np.int32), np.zeros(1, bool))]
    missing = -sum(len(document.input_ids) for document in documents) % multiple_of
    if missing:
        documents = [*documents, Row(np.zeros(missing, np.int32), np.zeros(missing, bool))]
    lengths = tuple(len(document.input_ids) for document in documents)
    input_ids = np.concatenate([document.input_ids for document in documents]).astype(np.int64)
    trained = np.concatenate([document.trained for document in documents])
    trained[np.cumsum((0, *lengths[:-1]))] = False  # nothing stands before the first token of a document
    at = np.flatnonzero(trained)
    position_ids = np.concatenate([np.arange(length) for length in lengths])
    return Batch(
        torch.from_numpy(input_ids)[None],
        torch.from_numpy(position_ids)[None],
        lengths,
        torch.from_numpy(at - 1),
        torch.from_numpy(input_ids[at]),
    )


def collate(rows: Rows, indices: np.ndarray, multiple_of: int = 1) -> Batch:
    """Returns the rows at `indices` as one batch."""
    return make_batch([rows[int(index)] for index in indices], multiple_of)
