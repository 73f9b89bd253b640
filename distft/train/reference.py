"""Log-probabilities of the frozen base, computed once before training and stored next to the prepared rows.

The strategy that trains the model also reads the rows with it, before the first update, so no second model is in
memory. The folder is named by what decides the numbers: the weights, the precision and the selected rows. Another run
with the same content reads them.
"""

from pathlib import Path

import numpy as np
import torch
from hydra.utils import get_object
from safetensors.numpy import load_file
from torch import nn

from distft.config.parts import Loss
from distft.data.batches import Batch
from distft.data.packing import MicroBatching
from distft.data.shards import Rows
from distft.losses.log_probabilities import log_probabilities
from distft.run import Plan
from distft.strategies.engine import Sums
from distft.train.stored import Layout, Part, PassSettings, Reader, parts_of

NAME = "log_probabilities"  # of the tensor [documents], fp64


def reads_stored(loss: Loss, plan: Plan) -> bool:
    """Returns whether the loss of a run reads stored log-probabilities of the frozen base."""
    if not hasattr(get_object(str(loss.target)), "reference"):
        return False
    return loss.reference == "stored" or (loss.reference == "auto" and plan.adapters is None)


def reference_dir(settings: PassSettings, plan: Plan) -> Path | None:
    """Returns the folder for the numbers of a run's rows; None where the loss reads none that are stored."""
    if not reads_stored(settings.loss, plan):
        return None
    return settings.folder(plan, "reference", {"model": plan.model_hash or settings.instance})


def layout_of(rows: Rows) -> Layout:
    """Returns one number per document of a row."""
    offsets = np.arange(len(rows) + 1, dtype=np.int64) * rows.documents_per_row
    return Layout(offsets, {NAME: np.zeros((), np.float64)})


def base_parts(folder: Path, rows: Rows) -> list[Part]:
    return parts_of(folder, rows.split, layout_of(rows))


def base_reader(rows: Rows, cut: MicroBatching, multiple_of: int = 1) -> Reader:
    """Returns what `write_missing` reads the rows with, the engine holding the base model."""
    return Reader(rows, cut, layout_of(rows), of_documents, multiple_of)


def of_documents(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Sums]:
    """Returns zero as the loss, and log p of each document's trained tokens, fp64 [D]."""
    found = log_probabilities(model, batch).log_probabilities
    return found.sum() * 0, {NAME: found}


def attach(rows: Rows, folder: Path) -> Rows:
    """Returns the rows with their numbers in `folder`, fp64 [rows, documents of a row]; as they are where a part is
    missing."""
    parts = base_parts(folder, rows)
    if not parts or not all(part.file.is_file() for part in parts):
        return rows
    numbers = [load_file(part.file)[NAME].reshape(-1, rows.documents_per_row) for part in parts]
    return rows.with_reference(np.concatenate(numbers))
