"""Numbers of rows under fixed weights, computed once before training and stored next to the prepared rows.

Rows are read in parts; a part that is written is complete, so a killed pass continues after its last part. What the
numbers are is a `Layout` and a `measure`: the log-probabilities of documents under the frozen base
(distft.train.reference), or a teacher's distributions at the targets (distft.train.teacher).
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from distft.config import parts
from distft.data.batches import Batch
from distft.data.key import data_dir
from distft.data.packing import MicroBatching
from distft.data.shards import Rows
from distft.run import Plan
from distft.runtime import heartbeat
from distft.runtime.process_group import World, all_reduce_sum, from_first
from distft.strategies.engine import Engine, Loss
from distft.train.feed import one_batch

PART_ROWS = 4096  # rows per file: what a kill loses at most
PART_BYTES = 2**28  # of the numbers of a part, which every process holds once


@dataclass(frozen=True)
class PassSettings:
    """The settings of a pass over a run's rows: what decides its numbers, and how the rows are read."""

    loss: parts.Loss
    instance: list[Any]  # facts and seed of a random model, which has no content hash
    precision: torch.dtype  # of compute
    compiled: bool
    shards: list[Any] | None  # of the training rows; None: all
    cache_dir: str

    def folder(self, plan: Plan, name: str, content: Mapping[str, Any]) -> Path:
        """Returns the folder of the numbers `name`, next to the prepared rows.

        content: what decides the numbers, in addition to precision and shards.
        """
        named = {**content, "precision": str(self.precision), "shards": self.shards}
        digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:32]
        return data_dir(self.cache_dir, plan.reads["data"]) / name / digest


@dataclass(frozen=True)
class Layout:
    """Which numbers belong to a row.

    A row has slots, one per document or target, and each slot has a value in every tensor.
    """

    offsets: np.ndarray  # int64 [rows + 1], the first slot of each row
    slot: Mapping[str, np.ndarray]  # by tensor an empty slot, of its shape and dtype

    def slots(self, indices: np.ndarray) -> np.ndarray:
        """Returns the slots of the rows at `indices`, row after row."""
        ranges = [np.arange(int(self.offsets[index]), int(self.offsets[index + 1])) for index in indices]
        return np.concatenate(ranges) if ranges else np.zeros(0, np.int64)

    def zeros(self, count: int) -> dict[str, np.ndarray]:
        """Returns tensors of `count` empty slots."""
        return {name: np.zeros((count, *each.shape), each.dtype) for name, each in self.slot.items()}


@dataclass(frozen=True)
class Part:
    """The rows start..stop of a split, and the file of their numbers."""

    file: Path
    start: int
    stop: int


def parts_of(folder: Path, split: str, layout: Layout) -> list[Part]:
    """Returns the parts of a split: at most PART_ROWS rows, and PART_BYTES where a row has less."""
    bytes_per_slot = sum(each.nbytes for each in layout.slot.values())
    rows, parts, start = len(layout.offsets) - 1, list[Part](), 0
    while start < rows:
        most = layout.offsets[start] + PART_BYTES // bytes_per_slot
        fits = int(np.searchsorted(layout.offsets, most, side="right")) - 1
        stop = min(max(fits, start + 1), start + PART_ROWS, rows)
        parts.append(Part(folder / f"{split}-{len(parts):05d}.safetensors", start, stop))
        start = stop
    return parts


def missing(parts: list[Part], world: World) -> list[Part]:
    """Returns the parts that are not written yet, as rank 0 sees them."""
    found = "".join("0" if part.file.is_file() else "1" for part in parts) if world.is_first else ""
    flags = from_first(found, world)
    return [part for part, flag in zip(parts, flags, strict=True) if flag == "1"]


@dataclass(frozen=True)
class Reader:
    """The split to read, how it is cut into micro-batches, and what is measured.

    measure: (model, batch) -> (zero, tensors by name of the layout; their first slots are those of the batch's rows)
    """

    rows: Rows
    cut: MicroBatching
    layout: Layout
    measure: Loss
    multiple_of: int = 1


@torch.no_grad()
def write_missing(engine: Engine, reader: Reader, parts: list[Part], world: World) -> None:
    """Computes the parts with the engine's weights as they are, and writes each when all processes have their share."""
    engine.train(False)
    offsets = reader.layout.offsets
    for part in parts:
        first = int(offsets[part.start])
        found = reader.layout.zeros(int(offsets[part.stop]) - first)
        for indices, batch in _share(reader, part, world):
            heartbeat.enter("evaluation")
            _, measured = engine.forward(batch, reader.measure)
            at = reader.layout.slots(indices) - first
            for name, values in found.items():
                values[at] = measured[name][: len(at)].cpu().numpy().reshape(-1, *values.shape[1:])
        whole = {
            name: all_reduce_sum(torch.from_numpy(values).to(world.device)).cpu().numpy()
            for name, values in found.items()
        }
        if world.is_first:
            _write(part.file, whole)
    engine.train(True)
    from_first("written", world)  # nobody reads before rank 0 has written


def _share(reader: Reader, part: Part, world: World) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yields the micro-batches of this process, the same number on every process, and the rows of each."""
    for ranks in reader.cut.micro_batches(np.arange(part.start, part.stop), world.size):
        indices = ranks[world.rank]
        yield indices, one_batch(reader.rows, indices, reader.multiple_of, world)


def _write(file: Path, numbers: Mapping[str, np.ndarray]) -> None:
    """Writes a part, complete or not at all; what another run has written meanwhile stays."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    save_file({name: np.ascontiguousarray(values) for name, values in numbers.items()}, partial)
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    try:
        os.link(partial, file)
    except FileExistsError:
        pass
    except OSError:  # a filesystem without links
        partial.replace(file)
    partial.unlink(missing_ok=True)
