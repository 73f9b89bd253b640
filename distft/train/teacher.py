"""A teacher's distributions at the targets, computed once before training and stored next to the prepared rows.

For each target: the k most probable tokens at the temperature of the loss, their log-probabilities, and the
log-probability of all others together. The teacher has an engine of its own, of the run's strategy, before the
student's is built; then it leaves memory. The folder is named by what decides the numbers, as for the frozen base.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from distft.data.batches import Batch
from distft.data.shards import Rows, TopK
from distft.losses.distillation import top_k_of
from distft.run import Plan
from distft.strategies.engine import Sums
from distft.train.stored import Layout, Part, PassSettings, parts_of

IDS, LOG_PROBABILITIES = "ids", "log_probabilities"  # int32 [targets, k] and fp32 [targets, k + 1]


def teacher_dir(settings: PassSettings, plan: Plan) -> Path | None:
    """Returns the folder for the teacher's numbers of a run's rows; None without a teacher."""
    loss = settings.loss
    if loss.teacher is None:
        return None
    content = {"teacher": plan.teacher_hash, "temperature": loss.temperature, "top_k": loss.top_k}
    return settings.folder(plan, "teacher", content)


def layout_of(rows: Rows, k: int) -> Layout:
    """Returns k tokens and k + 1 log-probabilities per target."""
    offsets = np.concatenate([[0], np.cumsum(rows.num_targets, dtype=np.int64)])
    return Layout(offsets, {IDS: np.zeros(k, np.int32), LOG_PROBABILITIES: np.zeros(k + 1, np.float32)})


@dataclass(frozen=True)
class Measure:
    """A teacher's distributions at the targets of a batch."""

    k: int
    temperature: float
    vocabulary: int  # of the tokenizer: what a model's head has beyond it is no token

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Sums]:
        """Returns zero as the loss, ids [T, k] and log-probabilities [T, k + 1]."""
        ids, log_probabilities = top_k_of(model, batch, self.k, self.temperature, self.vocabulary)
        return log_probabilities.sum() * 0, {IDS: ids, LOG_PROBABILITIES: log_probabilities}


class Stored:
    """The numbers of a split's rows, read from their files on demand."""

    def __init__(self, parts: list[Part], layout: Layout) -> None:
        self.parts, self.offsets, self.k = parts, layout.offsets, len(layout.slot[IDS])
        self.starts = np.array([part.start for part in parts])
        self._files: dict[int, Any] = {}  # by number; opened where they are read: a handle does not survive a fork

    def __call__(self, index: int) -> TopK:
        """Returns the teacher's distributions at the targets of a row."""
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        if number not in self._files:
            self._files[number] = safe_open(self.parts[number].file, framework="np")
        file, first = self._files[number], self.offsets[self.parts[number].start]
        cut = slice(int(self.offsets[index] - first), int(self.offsets[index + 1] - first))
        if cut.start == cut.stop:
            return TopK(np.zeros((0, self.k), np.int32), np.zeros((0, self.k + 1), np.float32))
        return TopK(file.get_slice(IDS)[cut], file.get_slice(LOG_PROBABILITIES)[cut])


def teacher_parts(folder: Path, rows: Rows, k: int) -> list[Part]:
    return parts_of(folder, rows.split, layout_of(rows, k))


def attach_teacher(rows: Rows, folder: Path, k: int) -> Rows:
    """Returns the rows with the teacher's distributions in `folder`; as they are where a part is missing."""
    parts = teacher_parts(folder, rows, k)
    if not parts or not all(part.file.is_file() for part in parts):
        return rows
    return rows.with_teacher(Stored(parts, layout_of(rows, k)))
