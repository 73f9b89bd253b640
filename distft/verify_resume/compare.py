"""Compares two or three runs of one config, read from their folders."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch

from distft.checkpoint.format import PARAMETER
from distft.checkpoint.load import Checkpoint
from distft.run import RunFolder
from distft.verify_resume.findings import EQUAL, EXACT, FACTOR, NOISY, Finding, Limit, compare_rows, compare_series

STRETCH = 2**24  # elements read at once: 64 MiB of each run
KINDS = ("weights", "moments")


@dataclass(frozen=True)
class Apart:
    """The distance of two checkpoints: norm of the difference over the norm, and the first element that differs."""

    relative: float
    first: str | None  # None: bit-equal


def last_checkpoint(run: RunFolder) -> Checkpoint:
    return Checkpoint((run.checkpoints / "latest").resolve())


def compare_tensors(
    kind: str, straight: list[Checkpoint], resumed: Checkpoint, limit: Limit, *, same_layout: bool
) -> Finding:
    """Compares weights or moments with the nearest uninterrupted run; of another layout the distance is reported."""
    keys = _keys(straight[0], kind)
    numbers = sum(prod(straight[0].shapes[key]) for key in keys)
    compared = f"{numbers:,} in {len(keys)} tensors of step {straight[0].step}"
    found = [measure(checkpoint, resumed, kind) for checkpoint in straight]
    nearest = min(found, key=lambda apart: apart.relative)
    if found[0].first is None:
        return Finding(kind, compared, EQUAL, True)
    if not same_layout:
        return Finding(kind, compared, f"{nearest.relative:.1e} apart, not judged on another layout", True)
    floor = measure(straight[0], straight[-1], kind).relative
    if limit.floor and nearest.relative <= FACTOR * floor:
        return Finding(kind, compared, limit.describe(nearest.relative, floor), True)
    allowed = f", {FACTOR * floor:.1e} allowed" if limit.floor else ""
    return Finding(kind, compared, f"{found[0].first}; all: {nearest.relative:.1e} apart{allowed}", False)


def measure(first: Checkpoint, second: Checkpoint, kind: str) -> Apart:
    """Returns the distance of two checkpoints in their weights, or in their optimizer's states."""
    keys = _keys(first, kind)
    if unequal := sorted(
        {(key, first.shapes[key]) for key in keys} ^ {(k, second.shapes[k]) for k in _keys(second, kind)}
    ):
        return Apart(float("inf"), f"{' '.join(unequal[0][0])} has another shape, or is missing")
    squares, difference, where = 0.0, 0.0, None
    for key in keys:
        for start, mine, other in _stretches(first, second, key):
            differs = mine.view(torch.int32) != other.view(torch.int32)
            if where is None and bool(differs.any()):
                at = int(differs.nonzero()[0])
                where = f"{' '.join(key)}[{start + at}]: {other[at].item()!r} instead of {mine[at].item()!r}"
            squares += float(mine.double().square().sum())
            difference += float((mine.double() - other.double()).square().sum())
    return Apart((difference / squares) ** 0.5 if squares else float(difference > 0), where)


def _stretches(
    first: Checkpoint, second: Checkpoint, key: tuple[str, str]
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    (slot, name), shape = key, first.shapes[key]
    for start in range(0, prod(shape), STRETCH):
        count = min(STRETCH, prod(shape) - start)
        mine, other = (checkpoint.read(name, shape, start, count, slot) for checkpoint in (first, second))
        yield start, mine, other


def _keys(checkpoint: Checkpoint, kind: str) -> list[tuple[str, str]]:
    return sorted(key for key in checkpoint.shapes if (key[0] == PARAMETER) == (kind == "weights"))


def compare(straight: list[RunFolder], resumed: RunFolder, limit: Limit, *, same_layout: bool) -> list[Finding]:
    """Returns the findings on a resumed run; rows and learning rates have to be equal on every device.

    straight: the uninterrupted run, and a second one where the device is not deterministic.
    """
    findings = [compare_rows(straight[0], resumed, same_layout=same_layout)]
    findings += [compare_series(what, straight[:1], resumed, Limit()) for what in EXACT]
    findings += [compare_series(what, straight, resumed, limit) for what in NOISY]
    wanted, found = [last_checkpoint(run) for run in straight], last_checkpoint(resumed)
    return findings + [compare_tensors(kind, wanted, found, limit, same_layout=same_layout) for kind in KINDS]
