"""Log-probabilities of the frozen base, computed once before training and stored next to the prepared rows.

The strategy that trains the model also reads the rows with it, before the first update, so no second model is in
memory. Rows are read in parts; a part that is written is complete, so a killed pass continues after its last part.
The folder is named by what decides the numbers: the weights, the precision and the selected rows. Another run with the
same content reads them.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from hydra.utils import get_object
from safetensors.numpy import load_file, save_file
from torch import nn

from distft.config import Config
from distft.data.batches import Batch
from distft.data.key import data_dir
from distft.data.packing import MicroBatching
from distft.data.shards import Rows
from distft.losses.log_probabilities import log_probabilities
from distft.models.flops import Flops
from distft.run import Plan
from distft.runtime import heartbeat
from distft.runtime.device import compute_dtype
from distft.runtime.process_group import World, all_reduce_sum, from_first
from distft.strategies.engine import Engine, Sums
from distft.train.feed import make_cut, one_batch, padding_multiple

PART_ROWS = 4096  # rows per file: what a kill loses at most
NAME = "log_probabilities"  # of the tensor [rows, documents of a row], fp64


def reference_dir(config: Config, plan: Plan, device: torch.device) -> Path | None:
    """Returns the folder for the numbers of a run's rows; None where the loss reads none that are stored."""
    if not hasattr(get_object(str(config.loss.target)), "reference"):
        return None
    where = config.loss.reference
    if where == "adapter" or (where == "auto" and plan.adapters is not None):
        return None
    content = {
        "model": plan.model_hash or [config.model.facts, config.seed],  # a random instance is a function of its seed
        "precision": str(compute_dtype(config.train.precision, device)),
        "shards": config.data.shards,
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
    return data_dir(config.cache_dir, plan.reads["data"]) / "reference" / digest


def open_rows(config: Config, plan: Plan, split: Literal["train", "eval"], world: World) -> Rows:
    """Opens the prepared rows of a split, with the stored numbers where there are some for the loss."""
    shards = config.data.shards if split == "train" else None
    rows = Rows(plan.rows_dir, split, shards, config.loss.class_weights)
    folder = reference_dir(config, plan, world.device)
    return rows if folder is None else attach(rows, folder)


def lacks_reference(config: Config, plan: Plan, world: World) -> bool:
    """Returns whether numbers of some rows are not stored yet; a collective."""
    folder = reference_dir(config, plan, world.device)
    return folder is not None and any(missing(parts_of(folder, each), world) for each in _splits(config, plan, world))


def make_reference(engine: Engine, config: Config, plan: Plan, flops: Flops, world: World) -> None:
    """Stores the numbers that are missing; the engine holds the base model."""
    folder = reference_dir(config, plan, world.device)
    assert folder is not None, "see lacks_reference"
    multiple_of = padding_multiple(plan.micro_batch_tokens, config.train.compile, world.device)
    for rows in _splits(config, plan, world):
        cut = make_cut(rows, plan.micro_batch_size, plan.micro_batch_tokens, flops)
        write_missing(engine, Reader(rows, cut, multiple_of), missing(parts_of(folder, rows), world), world)


def _splits(config: Config, plan: Plan, world: World) -> list[Rows]:
    return [open_rows(config, plan, split, world) for split in (("train", "eval") if plan.eval_rows else ("train",))]


@dataclass(frozen=True)
class Part:
    """The rows start..stop of a split, and the file of their numbers."""

    file: Path
    start: int
    stop: int


def parts_of(folder: Path, rows: Rows) -> list[Part]:
    starts = range(0, len(rows), PART_ROWS)
    return [
        Part(folder / f"{rows.split}-{number:05d}.safetensors", start, min(start + PART_ROWS, len(rows)))
        for number, start in enumerate(starts)
    ]


def missing(parts: list[Part], world: World) -> list[Part]:
    """Returns the parts that are not written yet, as rank 0 sees them."""
    found = "".join("0" if part.file.is_file() else "1" for part in parts) if world.is_first else ""
    flags = from_first(found, world)
    return [part for part, flag in zip(parts, flags, strict=True) if flag == "1"]


def read_parts(parts: list[Part]) -> np.ndarray:
    """Returns the numbers of a split, fp64 [rows, documents of a row]."""
    return np.concatenate([load_file(part.file)[NAME] for part in parts])


def attach(rows: Rows, folder: Path) -> Rows:
    """Returns the rows with their numbers in `folder`; as they are where a part is missing."""
    parts = parts_of(folder, rows)
    return rows.with_reference(read_parts(parts)) if parts and all(part.file.is_file() for part in parts) else rows


@dataclass(frozen=True)
class Reader:
    """The split to read, and how it is cut into micro-batches."""

    rows: Rows
    cut: MicroBatching
    multiple_of: int = 1


@torch.no_grad()
def write_missing(engine: Engine, reader: Reader, parts: list[Part], world: World) -> None:
    """Computes the parts with the engine's weights as they are, and writes each when all processes have their share."""
    engine.train(False)
    for part in parts:
        found = np.zeros((part.stop - part.start, reader.rows.documents_per_row))
        for indices, batch in _share(reader, part, world):
            heartbeat.enter("evaluation")
            _, sums = engine.forward(batch, _of_documents)
            of_rows = sums[NAME][: found.shape[1] * len(indices)].view(len(indices), -1)
            found[indices - part.start] = of_rows.cpu().numpy()
        whole = all_reduce_sum(torch.from_numpy(found).to(world.device)).cpu().numpy()
        if world.is_first:
            _write(part.file, whole)
    engine.train(True)
    from_first("written", world)  # nobody reads before rank 0 has written


def _share(reader: Reader, part: Part, world: World) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yields the micro-batches of this process, the same number on every process, and the rows of each."""
    for ranks in reader.cut.micro_batches(np.arange(part.start, part.stop), world.size):
        indices = ranks[world.rank]
        yield indices, one_batch(reader.rows, indices, reader.multiple_of, world)


def _of_documents(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Sums]:
    """Returns zero as the loss, and log p of each document's trained tokens, fp64 [D]."""
    found = log_probabilities(model, batch).log_probabilities
    return found.sum() * 0, {NAME: found}


def _write(file: Path, numbers: np.ndarray) -> None:
    """Writes a part, complete or not at all; what another run has written meanwhile stays."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    save_file({NAME: np.ascontiguousarray(numbers)}, partial)
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    try:
        os.link(partial, file)
    except FileExistsError:
        pass
    except OSError:  # a filesystem without links
        partial.replace(file)
    partial.unlink(missing_ok=True)
