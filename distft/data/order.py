"""Row order: a permutation per epoch, the boundaries of steps, and the position where a resumed run continues."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from distft.runtime.determinism import seed_for, splitmix64

ORDER_VERSION = 2  # of the permutation; a run keeps the version it started with (plan.reads)
_GAMMA = 0x9E3779B97F4A7C15  # the increment of splitmix64; coprime to 2**64, so its multiples are a full cycle


@dataclass(frozen=True)
class Order:
    """Row positions 0, 1, 2 ... of a run, as concatenated permutations of the rows, one per epoch."""

    num_rows: int
    seed: int
    version: int = ORDER_VERSION

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Returns the row indices at positions start..stop, int64; the range may span epochs."""
        parts = []
        for epoch in range(start // self.num_rows, (stop - 1) // self.num_rows + 1):
            first = epoch * self.num_rows
            order = _permutation(self.num_rows, self.seed, epoch, self.version)
            parts.append(order[max(start - first, 0) : stop - first])  # a view: a permutation may have millions of rows
        return np.concatenate(parts).astype(np.int64)


@lru_cache(maxsize=2)
def _permutation(num_rows: int, seed: int, epoch: int, version: int) -> np.ndarray:
    """Returns the rows of one epoch, sorted by a hash of seed, epoch and row.

    Trap: numpy guarantees the bits of its generators but not `permutation`, which version 1 uses; it may change in any
    release. The low bits of each hash are the row's index: hashes are distinct, so every sort gives the same order, and
    sorting the hashes themselves takes a third of the time of an argsort.
    """
    key = seed_for(seed, "order", epoch)
    if version == 1:
        order = np.random.Generator(np.random.PCG64(key)).permutation(num_rows)
    else:
        numbers = np.arange(num_rows, dtype=np.uint64)
        row_bits = np.uint64(2 ** num_rows.bit_length() - 1)
        order = splitmix64((numbers + np.uint64(1)) * np.uint64(_GAMMA) + np.uint64(key))
        order &= ~row_bits
        order |= numbers
        order.sort()
        order &= row_bits
    return order.astype(np.int32 if num_rows < 2**31 else np.int64)


@dataclass(frozen=True)
class Base:
    """Start of the current settings: after step `step`, at position `row`. Earlier steps had other settings."""

    step: int = 0
    row: int = 0


def row_borders(num_positions: int, batch_rows: int, start: int = 0) -> np.ndarray:
    """Returns the boundaries of steps of `batch_rows` rows from position `start`; the last step may be shorter."""
    return np.append(np.arange(start, num_positions, batch_rows), num_positions)


def token_borders(lengths: np.ndarray, batch_tokens: int) -> np.ndarray:
    """Returns the boundaries of steps that take rows in order, at most `batch_tokens` tokens each.

    lengths: tokens of the row at each position. Raises ValueError when one row is longer than a step.
    """
    if len(lengths) and lengths.max() > batch_tokens:
        raise ValueError(
            f"train.global_batch_tokens={batch_tokens} is less than the longest row, {lengths.max()} tokens. "
            f"Try: train.global_batch_tokens={lengths.max()}"
        )
    ends = np.cumsum(lengths, dtype=np.int64)
    borders = [0]
    while borders[-1] < len(lengths):
        taken = ends[borders[-1] - 1] if borders[-1] else 0
        borders.append(int(np.searchsorted(ends, taken + batch_tokens, side="right")))
    return np.asarray(borders)


def step_borders(
    order: Order,
    lengths: np.ndarray,
    *,
    epochs: float | None,
    max_steps: int | None,
    batch_rows: int | None,
    batch_tokens: int | None,
    base: Base = Base(),
) -> np.ndarray:
    """Returns positions [steps + 1]: step base.step + i (from 1) reads positions borders[i - 1]..borders[i].

    epochs, max_steps: of the whole run; the first limit reached ends it, and at least one is set.
    """
    steps = None if max_steps is None else max(0, max_steps - base.step)
    ends = []
    if epochs is not None:
        ends.append(max(base.row, int(np.ceil(round(epochs * order.num_rows, 6)))))
    if steps is not None:
        read = _enough(order, lengths, steps * batch_tokens) if batch_tokens else steps * (batch_rows or 0)
        ends.append(base.row + read)
    assert ends, "train.epochs or train.max_steps is set"
    at_most = min(ends)
    if batch_tokens is None:
        assert batch_rows is not None
        borders = row_borders(at_most, batch_rows, base.row)
    else:
        rest = order.rows(base.row, at_most) if at_most > base.row else np.zeros(0, dtype=np.int64)
        borders = base.row + token_borders(lengths[rest], batch_tokens)
    return borders if steps is None else borders[: steps + 1]


def _enough(order: Order, lengths: np.ndarray, tokens: int) -> int:
    """Returns an upper bound of the positions that hold `tokens` tokens from any start, in whole epochs."""
    return (tokens // int(lengths.sum()) + 2) * order.num_rows


ORDER = ("data", "shards", "seed", "order")  # with these unchanged, new step sizes continue at the next row
_OLDEST = {"order": 1}  # of runs frozen before the version was recorded


def base_of(manifest: Mapping[str, Any] | None, reads: Mapping[str, object]) -> Base:
    """Returns the checkpoint's base where the run reads the same rows in the same steps, else a new base at its step.

    reads: Plan.reads. New data, or the same data in another order, is read from its first row.
    """
    if manifest is None:
        return Base()
    before, reads = _OLDEST | manifest["reads"], _OLDEST | dict(reads)
    if before == reads:
        return Base(manifest["base_step"], manifest["base_row"])
    same_order = all(before[key] == reads[key] for key in ORDER)
    return Base(manifest["step"], manifest["next_row"] if same_order else 0)


def order_version(reads: Mapping[str, Any]) -> int:
    """Returns the Order version that a frozen run reads its rows with."""
    return (_OLDEST | dict(reads))["order"]
