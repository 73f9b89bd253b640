"""Collation: turns rows into the tensors of one micro-batch on one rank.

A micro-batch is packed without padding: its documents, one per data row, are concatenated along S. Position ids restart
in each document, and attention is block-diagonal (distft.models.attention).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from distft.data.shards import Row, Rows

_FILLER_TOKENS = 128  # length of one filler document; attention cost grows with its square
_ALIGNMENT = 16  # bytes, of each tensor in the transfer buffer of a step


@dataclass(frozen=True)
class Batch:
    """A micro-batch of S tokens in D documents, with T targets: trained tokens that have a preceding token."""

    input_ids: torch.Tensor  # [1, S] int64
    position_ids: torch.Tensor  # [1, S] int64, from 0 in each document
    lengths: tuple[int, ...]  # [D] tokens of each document
    positions: torch.Tensor  # [T] int64, index into S of the token that predicts each target
    targets: torch.Tensor  # [T] int64
    starts: torch.Tensor  # [D + 1] int32, index into S of each document's first token, and S
    weights: torch.Tensor | None = None  # [T] float32, of each target in the loss; None: all 1
    cost: float = 0.0  # floating-point operations of its forward pass; 0: not estimated

    def inputs(self) -> dict[str, Any]:
        """Returns keyword arguments for a transformers model's forward, which passes most of them to attention."""
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "use_cache": False,
            "document_lengths": self.lengths,
            "cu_seq_lens_q": self.starts,  # the names that transformers uses for flash-attention
            "cu_seq_lens_k": self.starts,
            "max_length_q": max(self.lengths),
            "max_length_k": max(self.lengths),
        }

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        names = ("input_ids", "position_ids", "positions", "targets", "starts", "weights")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def weight(self) -> torch.Tensor | int:
        """Sum of the targets' weights: what the sum of the losses is divided by."""
        return len(self.targets) if self.weights is None else self.weights.sum(dtype=torch.float64)


def to_device(batches: Sequence[Batch], device: torch.device) -> list[Batch]:
    """Returns the batches on `device`, copied from pinned memory in one asynchronous transfer."""
    if device.type == "cpu":
        return list(batches)
    return unpack(pack(batches, pin=True).to(device, non_blocking=True), batches)


def pack(batches: Sequence[Batch], pin: bool) -> torch.Tensor:
    """Returns all tensors of the batches in one host buffer, uint8 [bytes], each aligned to 16 bytes."""
    size = sum(stop - start for start, stop, _ in _places(batches))
    buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pin)
    for start, _, tensor in _places(batches):
        _view(buffer, start, tensor).copy_(tensor)
    return buffer


def unpack(buffer: torch.Tensor, like: Sequence[Batch]) -> list[Batch]:
    """Returns the batches with their tensors as views of `buffer`; the inverse of `pack`.

    like: the batches that were packed, for names, dtypes and shapes.
    """
    tensors = iter([_view(buffer, start, tensor) for start, _, tensor in _places(like)])
    return [replace(batch, **{name: next(tensors) for name in batch.tensors}) for batch in like]


def _places(batches: Sequence[Batch]) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yields (start, stop, tensor): the byte range of each tensor in the buffer, aligned for every dtype."""
    start = 0
    for batch in batches:
        for tensor in batch.tensors.values():
            stop = start + -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
            yield start, stop, tensor
            start = stop


def _view(buffer: torch.Tensor, start: int, like: torch.Tensor) -> torch.Tensor:
    return buffer[start : start + like.nbytes].view(like.dtype).view(like.shape)


def make_batch(documents: Sequence[Row], multiple_of: int = 1) -> Batch:
    """Returns documents as one batch; an empty list gives one token without a target.

    multiple_of: S is rounded up to a multiple of it, by short filler documents without targets.
    """
    documents = documents or [Row(np.zeros(1, np.int32), np.zeros(1, bool))]
    missing = -sum(len(document.input_ids) for document in documents) % multiple_of
    whole, rest = divmod(missing, _FILLER_TOKENS)
    for length in [_FILLER_TOKENS] * whole + [rest] * (rest > 0):
        documents = [*documents, Row(np.zeros(length, np.int32), np.zeros(length, bool))]
    lengths = tuple(len(document.input_ids) for document in documents)
    input_ids = np.concatenate([document.input_ids for document in documents]).astype(np.int64)
    trained = np.concatenate([document.trained for document in documents])
    trained[np.cumsum((0, *lengths[:-1]))] = False  # the first token of a document has no context
    at = np.flatnonzero(trained)
    position_ids = np.concatenate([np.arange(length) for length in lengths])
    return Batch(
        torch.from_numpy(input_ids)[None],
        torch.from_numpy(position_ids)[None],
        lengths,
        torch.from_numpy(at - 1),
        torch.from_numpy(input_ids[at]),
        torch.from_numpy(np.cumsum((0, *lengths), dtype=np.int32)),
        _target_weights(documents, at),
    )


def _target_weights(documents: Sequence[Row], at: np.ndarray) -> torch.Tensor | None:
    """Returns the weights of the tokens at `at`, float32; None where no document has weights."""
    if all(document.weights is None for document in documents):
        return None
    ones = (
        np.ones(len(document.input_ids), np.float32) if document.weights is None else document.weights
        for document in documents
    )
    return torch.from_numpy(np.concatenate(list(ones))[at])


def collate(rows: Rows, indices: np.ndarray, multiple_of: int = 1) -> Batch:
    """Returns the rows at `indices` as one batch."""
    return make_batch([rows[int(index)] for index in indices], multiple_of)
