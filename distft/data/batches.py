"""Collation: turns rows into the tensors of one micro-batch on one rank.

A micro-batch is packed without padding: its documents, one per data row, are concatenated along S. Position ids restart
in each document, and attention is block-diagonal (distft.models.attention).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
import torch

from distft.data.shards import Row, Rows

_FILLER_TOKENS = 128  # length of one filler document; attention cost grows with its square
_ALIGNMENT = 16  # bytes, of each tensor in the transfer buffer of a step


class Inputs(TypedDict):
    """Keywords of a transformers model's forward: tensors as in Batch, and the names of flash-attention for borders."""

    input_ids: torch.Tensor  # [1, S] int64
    position_ids: torch.Tensor  # [1, S] int64
    use_cache: bool
    document_lengths: tuple[int, ...]  # [D]
    cu_seq_lens_q: torch.Tensor  # [D + 1] int32
    cu_seq_lens_k: torch.Tensor
    max_length_q: int
    max_length_k: int


@dataclass(frozen=True)
class Batch:
    """A micro-batch of S tokens in D documents, with T targets and U units of the loss.

    A target is a trained token that has a preceding one, read at that one; with labels it is a token that is compared
    with a label, read at itself. A unit is a target, or a row of several documents (see distft.data.shards.Row).
    """

    input_ids: torch.Tensor  # [1, S] int64
    position_ids: torch.Tensor  # [1, S] int64, from 0 in each document
    lengths: tuple[int, ...]  # [D] tokens of each document
    positions: torch.Tensor  # [T] int64, index into S of the token whose output each target is compared with
    targets: torch.Tensor  # [T] int64, token ids
    starts: torch.Tensor  # [D + 1] int32, index into S of each document's first token, and S
    weights: torch.Tensor | None = None  # [U] float32, of each unit in the loss; None: all 1
    cost: float = 0.0  # floating-point operations of its forward pass; 0: not estimated
    labels: torch.Tensor | None = None  # [U, L] float32; None: the tokens are the targets
    first_documents: torch.Tensor | None = None  # [U] int64: the first document of each row that is a unit; else None
    reference: torch.Tensor | None = None  # [U, documents] float64: log-probabilities under the frozen base
    teacher_ids: torch.Tensor | None = None  # [T, k] int32, the most probable tokens of a teacher at each target
    teacher_log_probabilities: torch.Tensor | None = None  # [T, k + 1] float32; the last is that of all others
    by_unit: bool = False  # losses of labels and pairs return [U], one number of each unit, in place of sums

    def inputs(self) -> Inputs:
        """Returns keyword arguments for a transformers model's forward, which passes most of them to attention."""
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "use_cache": False,
            "document_lengths": self.lengths,
            "cu_seq_lens_q": self.starts,
            "cu_seq_lens_k": self.starts,
            "max_length_q": max(self.lengths),
            "max_length_k": max(self.lengths),
        }

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        tokens = ("input_ids", "position_ids", "positions", "targets", "starts", "weights")
        names = (*tokens, "labels", "first_documents", "reference", "teacher_ids", "teacher_log_probabilities")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def num_targets(self) -> int:
        """The units of the loss, U."""
        return len(self.positions if self.first_documents is None else self.first_documents)

    @property
    def weight(self) -> torch.Tensor | int:
        """Sum of the units' weights: what the sum of the losses is divided by."""
        return self.num_targets if self.weights is None else self.weights.sum(dtype=torch.float64)

    @property
    def documents(self) -> torch.Tensor:
        """The document of each target, [T] int64."""
        return torch.bucketize(self.positions, self.starts[1:], right=True)


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
    tensors: Iterator[Any] = iter([_view(buffer, start, tensor) for start, _, tensor in _places(like)])
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


def make_batch(rows: Sequence[Row], multiple_of: int = 1) -> Batch:
    """Returns rows of one kind as one batch; an empty list gives one token without a target.

    multiple_of: S is rounded up to a multiple of it, by short filler documents without targets.
    """
    rows = rows or [Row(np.zeros(1, np.int32), np.zeros(1, bool))]
    missing = -sum(len(row.input_ids) for row in rows) % multiple_of
    whole, rest = divmod(missing, _FILLER_TOKENS)
    fillers = [
        Row(np.zeros(length, np.int32), np.zeros(length, bool))
        for length in [_FILLER_TOKENS] * whole + [rest] * (rest > 0)
    ]
    per_row = [_documents_of(row) for row in (*rows, *fillers)]
    lengths = tuple(length for row in per_row for length in row)
    input_ids = np.concatenate([row.input_ids for row in (*rows, *fillers)]).astype(np.int64)
    trained = np.concatenate([row.trained for row in (*rows, *fillers)])
    has_labels, is_grouped = (any(has) for has in zip(*map(_kind, rows), strict=True))
    if is_grouped or not has_labels:
        trained[np.cumsum((0, *lengths[:-1]))] = False  # the first token of a document has no context
    at = np.flatnonzero(trained)
    read = at if has_labels and not is_grouped else at - 1
    teacher_ids, teacher_log_probabilities = _teacher(rows)
    first = np.cumsum([0, *map(len, per_row)])[: len(rows)]  # [rows], the number of each row's first document
    return Batch(
        torch.from_numpy(input_ids)[None],
        torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))[None],
        lengths,
        torch.from_numpy(read),
        torch.from_numpy(input_ids[at]),
        torch.from_numpy(np.cumsum((0, *lengths), dtype=np.int32)),
        _weights(rows, at, is_grouped),
        labels=_labels(rows) if has_labels else None,
        first_documents=torch.from_numpy(first) if is_grouped else None,
        reference=_reference(rows),
        teacher_ids=teacher_ids,
        teacher_log_probabilities=teacher_log_probabilities,
    )


def _kind(row: Row) -> tuple[bool, bool]:
    return row.labels is not None, row.borders is not None


def _documents_of(row: Row) -> list[int]:
    """Returns the lengths of a row's documents."""
    borders = [] if row.borders is None else row.borders.tolist()
    return np.diff(np.array([0, *borders, len(row.input_ids)])).tolist()


def _weights(rows: Sequence[Row], at: np.ndarray, is_grouped: bool) -> torch.Tensor | None:
    """Returns the weights of the units, float32 [U]; None where no row has weights. at: the places of the targets."""
    if all(row.weights is None for row in rows):
        return None
    sizes = [1 if is_grouped else len(row.input_ids) for row in rows]
    filled = [
        np.ones(size, np.float32) if row.weights is None else row.weights for row, size in zip(rows, sizes, strict=True)
    ]
    whole = np.concatenate(filled)
    return torch.from_numpy(whole if is_grouped else whole[at])


def _labels(rows: Sequence[Row]) -> torch.Tensor:
    """Returns the labels of rows, float32 [U, L]."""
    found = [row.labels.reshape(row.num_targets, -1) for row in rows if row.labels is not None]
    return torch.from_numpy(np.concatenate(found))


def _reference(rows: Sequence[Row]) -> torch.Tensor | None:
    """Returns the log-probabilities of the rows' documents under the frozen base, float64 [U, documents]."""
    found = [row.reference for row in rows if row.reference is not None]
    return torch.from_numpy(np.stack(found)) if found else None


def _teacher(rows: Sequence[Row]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Returns a teacher's tokens and log-probabilities at the targets; None where the rows have none."""
    found = [row.teacher for row in rows if row.teacher is not None]
    if not found:
        return None, None
    numbers = ([each.ids for each in found], [each.log_probabilities for each in found])
    ids, log_probabilities = (torch.from_numpy(np.concatenate(each)) for each in numbers)
    return ids, log_probabilities


def collate(rows: Rows, indices: np.ndarray, multiple_of: int = 1) -> Batch:
    """Returns the rows at `indices` as one batch."""
    return make_batch([rows[int(index)] for index in indices], multiple_of)
