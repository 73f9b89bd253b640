"""Rows and tokens of a run: exact from prepared data, else estimated from file sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distft.config import Config
from distft.data.hub import NotFetched
from distft.data.key import prepared_dir
from distft.data.order import ORDER_VERSION, Base, Order, base_of, order_version, step_borders
from distft.data.shards import Rows
from distft.data.sources import find_sources
from distft.run import Plan

_SAMPLE_BYTES = 2**20
_BYTES_PER_TOKEN = 4  # of English text, in rows with field names


@dataclass(frozen=True)
class Extent:
    """The data that a run reads."""

    data_dir: Path | None
    rows: int
    eval_rows: int
    reads: Mapping[str, Any]  # as Plan.reads: everything that determines the rows of a step
    base: Base
    steps: int
    rows_read: int  # in all steps
    tokens: int  # in all steps
    estimated: bool
    longest: int | None = None  # tokens of the longest row; None while estimated
    attended: float = 0.0  # tokens that a token attends to in its row, on average, itself included; without windows
    targets: int = 0  # units of the loss, in all steps


def extent(config: Config, resumed: Mapping[str, Any] | None = None, own: Plan | None = None) -> Extent:
    """Returns the run's rows, steps and tokens; `estimated` while its data is not prepared.

    resumed: manifest of the checkpoint to resume. own: the frozen plan, whose rows the run keeps; then data.train and
    data.eval are not read.
    """
    folder = own.rows_dir if own and own.data_dir else prepared_dir(config)
    shards, training = config.data.shards, config.train
    if folder is not None:
        rows = Rows(folder, "train", shards)
        lengths, targets, eval_rows = rows.lengths, rows.num_targets, len(Rows(folder, "eval"))
    else:
        lengths, eval_rows = _guess(config)
        targets = lengths
    by_tokens = training.global_batch_tokens
    sizes = {"batch_rows": None if by_tokens else training.global_batch_size, "batch_tokens": by_tokens}
    order_of = {"data": folder.name if folder else None, "shards": shards, "seed": config.seed}
    version = _version_of_order(order_of, [resumed["reads"] if resumed else None, own.reads if own else None])
    order = Order(len(lengths), config.seed, version)
    reads = order_of | {"order": version} | sizes
    base = base_of(resumed, reads)
    if not len(lengths):
        return Extent(folder, 0, eval_rows, reads, base, training.max_steps or 0, 0, 0, estimated=True)
    borders = step_borders(order, lengths, epochs=training.epochs, max_steps=training.max_steps, base=base, **sizes)
    read = int(borders[-1])
    of_steps = order.rows(0, read) if read else np.zeros(0, np.int64)
    each = lengths[of_steps].astype(np.float64)
    tokens = int(each.sum())
    return Extent(
        data_dir=folder,
        rows=len(lengths),
        eval_rows=eval_rows,
        reads=reads,
        base=base,
        steps=base.step + len(borders) - 1,
        rows_read=read,
        tokens=tokens,
        estimated=folder is None,
        longest=int(lengths.max()) if folder is not None else None,
        attended=float((each * (each + 1) / 2).sum() / max(1, tokens)),
        targets=int(targets[of_steps].sum(dtype=np.int64)),
    )


def _version_of_order(rows: Mapping[str, Any], before: Sequence[Mapping[str, Any] | None]) -> int:
    """Returns the order version with which these rows were read before, else the newest."""
    for reads in before:
        if reads and all(reads.get(key) == value for key, value in rows.items()):
            return order_version(reads)
    return ORDER_VERSION


def _guess(config: Config) -> tuple[np.ndarray, int]:
    """Returns estimated tokens per training row, int64 [rows], all equal, and the estimated held-out rows."""
    rows, tokens = _guess_files("train", config)
    declared = config.data.eval
    if isinstance(declared, str | list):
        held_out = _guess_files("eval", config)[0]
    else:
        held_out = round(rows * float(declared or 0))
        rows -= held_out
    return np.full(rows, max(1, min(tokens, config.data.max_length)), dtype=np.int32), held_out


def _guess_files(name: Literal["train", "eval"], config: Config) -> tuple[int, int]:
    """Returns estimated rows and tokens per row: a line is a row; 0 rows without a local file."""
    try:
        sources = find_sources(name, config.data, config.cache_dir)
    except NotFetched:  # objects of a store
        return 0, 0
    files = [file for source in sources for file in source.files if isinstance(file, Path)]
    rows, size = 0, 0
    for file in files:
        with file.open("rb") as opened:
            sample = opened.read(_SAMPLE_BYTES)
        lines = max(1, sample.count(b"\n"))
        rows += max(1, round(lines * file.stat().st_size / max(1, len(sample))))
        size += file.stat().st_size
    return rows, round(size / max(1, rows) / _BYTES_PER_TOKEN)
