"""Model agreement: distft's loss equals that of the model's own class, and packed documents do not affect each other.

Neither follows from the architecture's name. A class may have layers between the base model and its head, or not pass
document boundaries to its attention, and nothing would fail. It is measured on a small instance before a run
(model_check.architecture), and on the live model when the run starts.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from distft.data.batches import Batch, make_batch, to_device
from distft.data.shards import Row, Rows
from distft.losses import OUTPUTS
from distft.losses.cross_entropy import CrossEntropy, logits
from distft.models.heads import language_head, outputs, reads_tokens
from distft.run import write_json
from distft.runtime.errors import Disagreement
from distft.runtime.process_group import World, from_first
from distft.strategies.engine import Engine

LOSS_TOLERANCE = 1e-5  # relative, in fp32
LOGIT_TOLERANCE = 1e-5  # of the largest logit, in fp32
BF16_LOSS_TOLERANCE, BF16_LOGIT_TOLERANCE = 5e-3, 2e-2  # on a CPU 2e-6 and 0 were seen; not run on a device yet
LIVE_TOKENS, LIVE_DOCUMENTS = 256, 4  # limits of the check when a run starts
Forward = Callable[[Batch, Any], tuple[torch.Tensor, dict[str, torch.Tensor]]]  # (batch, objective) -> (sum, metrics)


@dataclass(frozen=True)
class Agreement:
    """Measurements of a model. own, loss: nats per target by the model's class, and by distft's objective."""

    name: str
    own: float
    loss: float
    other: float  # the largest change of a logit when another document changes, relative to the largest logit
    of_logits: float  # the largest difference between logits of packed documents and of each alone, relative

    @property
    def difference(self) -> float:
        """The relative difference of the losses."""
        return abs(self.loss - self.own) / max(abs(self.own), 1e-12)

    def wrong(self, loss_tolerance: float = LOSS_TOLERANCE, logit_tolerance: float = LOGIT_TOLERANCE) -> str | None:
        """Returns what differs; None where the model agrees with its class. NaN never agrees."""
        if not self.other <= logit_tolerance:
            return (
                f"{self.name} does not separate packed documents: changing one moved a logit of another by "
                f"{self.other:.1e} of the largest, so the loss would depend on the packing"
            )
        if self.difference <= loss_tolerance:
            return None
        losses = f"computes a loss of {self.own:.6f} by its own class and of {self.loss:.6f} here"
        if self.of_logits <= logit_tolerance:
            return f"{self.name} {losses}, with the same logits: its head is more than one linear layer"
        return f"{self.name} {losses}: packed documents get other logits than each alone"


def class_loss(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Returns the loss of the model's own class, summed over the targets of the one document in `batch`."""
    output: Any = model(input_ids=batch.input_ids, labels=batch.input_ids, use_cache=False)
    return output.loss * (batch.input_ids.shape[1] - 1), {"logits": output.logits.float()}


@torch.no_grad()
def measure(name: str, forward: Forward, own: Forward, documents: Sequence[np.ndarray], vocabulary: int) -> Agreement:
    """Compares a forward of all documents, packed, with a forward of each by the model's own class.

    forward, own: in eval mode; they may be the same. documents: token ids, at least two documents of at least two
    tokens. vocabulary: the number of token ids.
    """
    targets = sum(len(ids) - 1 for ids in documents)
    alone = [own(batch_of([ids]), class_loss) for ids in documents]
    loss, _ = forward(batch_of(documents), None)
    together = forward(batch_of(documents), logits)[1]["logits"][0]  # [S, V]
    other = forward(batch_of([changed(documents[0], vocabulary), *documents[1:]]), logits)[1]["logits"][0]
    first = len(documents[0])
    return Agreement(
        name,
        own=sum(float(value) for value, _ in alone) / targets,
        loss=float(loss) / targets,
        other=relative_difference(other[first:], together[first:]),
        of_logits=relative_difference(torch.cat([sums["logits"][0] for _, sums in alone]), together),
    )


@torch.no_grad()
def check_live(
    engine: Engine, rows: Rows, first: np.ndarray, vocabulary: int, precision: torch.dtype, world: World
) -> None:
    """Raises Disagreement on every rank where the live model does not agree with its class.

    It uses the shortest of the rows `first`, the same on every rank, truncated to 256 tokens in total, in eval mode and
    without compilation. Cost: one forward per document, and three of all documents.
    """
    shortest = sorted((int(row) for row in first if rows.lengths[row] > 1), key=lambda row: int(rows.lengths[row]))
    if not shortest:
        return
    chosen = (shortest * 2)[: max(2, min(LIVE_DOCUMENTS, len(shortest)))]
    documents = [rows[row].input_ids[: LIVE_TOKENS // len(chosen)].astype(np.int64) for row in chosen]

    def forward(batch: Batch, objective: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return engine.forward(to_device([batch], world.device)[0], objective)

    engine.train(False)
    name = type(engine.objective.model).__name__
    own = (LOSS_TOLERANCE, LOGIT_TOLERANCE)
    of_loss, of_logits = own if precision == torch.float32 else (BF16_LOSS_TOLERANCE, BF16_LOGIT_TOLERANCE)
    if not isinstance(engine.objective.loss, CrossEntropy):  # the model's class computes no other loss
        of_loss = float("inf")
    with torch.compiler.set_stance("force_eager"):
        if language_head(engine.objective.model) is None:
            wrong = wrong_outputs(engine.objective.model, forward, forward, documents, of_logits)
        else:
            wrong = measure(name, forward, forward, documents, vocabulary).wrong(of_loss, of_logits)
    engine.train(True)
    if reason := from_first(wrong or "", world):
        raise Disagreement(
            f"{reason}. Nothing was trained. Try: strategy=ddp, model.attention=eager, model.kernels=none or "
            "train.precision=fp32, whichever helps, or another model (docs/models.md)"
        )


def is_known(file: Path, world: World) -> bool:
    """Returns on every rank whether `file`, of a check that passed before, is there on rank 0."""
    return from_first("known" if world.is_first and file.is_file() else "", world) != ""


def note_known(file: Path, settings: Mapping[str, object], world: World) -> None:
    """Writes the file of a check that has passed, on rank 0, unless this node cannot write to the cache."""
    if world.is_first:
        with suppress(OSError):
            write_json(file, settings)


def class_outputs(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Returns the outputs of the model's own class for the one document in `batch`: of the row, or of each token."""
    found: Any = model
    logits = found(input_ids=batch.input_ids).logits
    return torch.zeros(()), {OUTPUTS: logits.float().view(-1, logits.shape[-1])}


def unit_outputs(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Returns distft's outputs for the units of `batch`."""
    return torch.zeros(()), {OUTPUTS: outputs(model, batch)}


@torch.no_grad()
def wrong_outputs(
    model: nn.Module,
    forward: Forward,
    own: Forward,
    documents: Sequence[np.ndarray],
    tolerance: float = LOGIT_TOLERANCE,
) -> str | None:
    """Returns how the outputs of packed documents differ from those of each alone, by the class; None where they agree.

    model: for its class. forward, own: in eval mode; they may be the same.
    """
    every = reads_tokens(model)
    rows = [Row(ids, np.ones(len(ids), bool) if every else np.arange(len(ids)) == len(ids) - 1) for ids in documents]
    rows = [replace(row, labels=np.zeros(int(row.trained.sum()), np.float32)) for row in rows]
    together = forward(make_batch(rows), unit_outputs)[1][OUTPUTS]
    alone = torch.cat([own(make_batch([row]), class_outputs)[1][OUTPUTS] for row in rows])
    if (distance := relative_difference(together, alone)) <= tolerance:
        return None
    name = type(model).__name__
    return f"{name} gives packed documents other outputs than each alone, by {distance:.1e} of the largest"


def batch_of(documents: Sequence[np.ndarray]) -> Batch:
    """Returns the documents as one batch; every token except each document's first is a target."""
    return make_batch([Row(ids, np.ones(len(ids), bool)) for ids in documents])


def changed(ids: np.ndarray, vocabulary: int) -> np.ndarray:
    """Returns other token ids, every one different."""
    return (ids + 1) % vocabulary


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Returns the largest absolute difference, relative to the largest value of `other`."""
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-12))
