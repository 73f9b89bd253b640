"""Which rows a step reads: permutations by epoch, borders of steps, and where a resumed run goes on."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from distft.runtime.determinism import seed_for, splitmix64

ORDER_VERSION = 2  # of the order of rows; a run keeps the one that it began with (plan.reads)
_GAMMA = 0x9E3779B97F4A7C15  # of splitmix64: odd, so its multiples run through all 64-bit numbers


@dataclass(frozen=True)
class Order:
    """Row positions 0, 1, 2 ... of a run, as concatenated permutations of the rows, one per epoch."""

    num_rows: int
    seed: int
    version: int = ORDER_VERSION

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Returns the row indices at positions start..stop, int64; an epoch's border may lie between them."""
        parts = []
        for epoch in range(start // self.num_rows, (stop - 1) // self.num_rows + 1):
            first = epoch * self.num_rows
            order = _permutation(self.num_rows, self.seed, epoch, self.version)
            parts.append(order[max(start - first, 0) : stop - first])  # a view: an order may have millions of rows
        return np.concatenate(parts).astype(np.int64)


@lru_cache(maxsize=2)
def _permutation(num_rows: int, seed: int, epoch: int, version: int) -> np.ndarray:
    """Returns the rows of one epoch in their order: sorted by a hash that depends on nothing but seed, epoch and row.

    Trap: numpy promises its generators' bits, not what it makes of them: `permutation`, which version 1 takes, may be
    another one in its next version. The number of a row stands in the low bits of its hash: no two are equal, so any
    sort gives the same order, and sorting numbers takes a third of the time of sorting rows by numbers.
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
    """Where the steps of these settings begin: after step `step`, at position `row`. The steps before had others."""

    step: int = 0
    row: int = 0


def row_borders(num_positions: int, batch_rows: int, start: int = 0) -> np.ndarray:
    """Returns the borders of steps of `batch_rows` rows each from position `start`; the last step may be short."""
    return np.append(np.arange(start, num_positions, batch_rows), num_positions)


def token_borders(lengths: np.ndarray, batch_tokens: int) -> np.ndarray:
    """Returns the borders of steps that take rows in order while they hold at most `batch_tokens` tokens.

    lengths: tokens of the row at each position. ValueError when one row alone is longer than a step.
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

    epochs, max_steps: of the whole run; the first one reached ends it; one of them at least is given.
    """
    steps = None if max_steps is None else max(0, max_steps - base.step)
    ends = []
    if epochs is not None:
        ends.append(max(base.row, int(np.ceil(round(epochs * order.num_rows, 6)))))
    if steps is not None:
        read = _enough(order, lengths, steps * batch_tokens) if batch_tokens else steps * (batch_rows or 0)
        ends.append(base.row + read)
    assert ends, "a run needs an end"
    at_most = min(ends)
    if batch_tokens is None:
        assert batch_rows is not None
        borders = row_borders(at_most, batch_rows, base.row)
    else:
        rest = order.rows(base.row, at_most) if at_most > base.row else np.zeros(0, dtype=np.int64)
        borders = base.row + token_borders(lengths[rest], batch_tokens)
    return borders if steps is None else borders[: steps + 1]


def _enough(order: Order, lengths: np.ndarray, tokens: int) -> int:
    """Returns how many positions hold as many tokens, wherever they begin: whole epochs, and one that is cut."""
    return (tokens // int(lengths.sum()) + 2) * order.num_rows


ORDER = ("data", "shards", "seed", "order")  # other steps over the same order of rows go on where the last one ended
_OLDEST = {"order": 1}  # what runs read that were frozen before it was written down


def base_of(manifest: Mapping[str, Any] | None, reads: dict[str, Any]) -> Base:
    """Returns the checkpoint's own base where the run reads as it did, else one that begins at the checkpoint.

    reads: Plan.reads. New data, or the same in another order, is read from its beginning.
    """
    if manifest is None:
        return Base()
    before, reads = _OLDEST | manifest["reads"], _OLDEST | reads
    if before == reads:
        return Base(manifest["base_step"], manifest["base_row"])
    same_order = all(before[key] == reads[key] for key in ORDER)
    return Base(manifest["step"], manifest["next_row"] if same_order else 0)


def order_version(reads: Mapping[str, Any]) -> int:
    """Returns the version of the order in which a frozen run reads its rows (distft.data.order.Order)."""
    return (_OLDEST | dict(reads))["order"]
