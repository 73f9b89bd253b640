"""Whether a model computes here what its own class means: the loss of the class, and documents that see no other.

A name does not tell: a class may put layers between the base model and its head, or keep the documents' borders from
its attention, and nothing would fail. Measured on a small instance before a run (model_check.architecture), and on the
live model when the run starts.

A name does not tell: a class may put layers between the base model and its head, or keep the documents' borders from
its attention, and nothing would fail. Measured on a small instance before a run (distft.model_check), and on the live
model when the run starts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from distft.data.batches import Batch, make_batch, to_device
from distft.data.shards import Row, Rows
from distft.losses.cross_entropy import CrossEntropy, logits
from distft.runtime.errors import Disagreement
from distft.runtime.process_group import World, from_first
from distft.strategies.engine import Engine

LOSS_TOLERANCE = 1e-5  # relative, in fp32
LOGIT_TOLERANCE = 1e-5  # of the largest logit, in fp32
BF16_LOSS_TOLERANCE, BF16_LOGIT_TOLERANCE = 5e-3, 2e-2  # on a CPU 2e-6 and 0 were seen; not run on a device yet
LIVE_TOKENS, LIVE_DOCUMENTS = 256, 4  # of the forward that is made when a run starts
Forward = Callable[[Batch, Any], tuple[torch.Tensor, dict[str, torch.Tensor]]]  # an engine's, or of a model alone


@dataclass(frozen=True)
class Agreement:
    """What was measured of a model. own, loss: nats per target of the model's class, and of what is trained here."""

    name: str
    own: float
    loss: float
    other: float  # how far a change of one document moved a logit of another, relative to the largest
    of_logits: float  # how far the logits of documents in one forward are from those of each alone

    @property
    def difference(self) -> float:
        """Of the losses, relative."""
        return abs(self.loss - self.own) / max(abs(self.own), 1e-12)

    def wrong(self, loss_tolerance: float = LOSS_TOLERANCE, logit_tolerance: float = LOGIT_TOLERANCE) -> str | None:
        """Returns what differs, in words; None where the model trains as its class means. NaN differs from all."""
        if not self.other <= logit_tolerance:
            return (
                f"{self.name} does not keep the documents of a forward apart: changing one moved a logit of another by "
                f"{self.other:.1e} of the largest, so the loss would depend on which rows meet"
            )
        if self.difference <= loss_tolerance:
            return None
        losses = f"computes a loss of {self.own:.6f} by its own class and of {self.loss:.6f} here"
        if self.of_logits <= logit_tolerance:
            return f"{self.name} {losses}, with the same logits: its head is more than one linear layer"
        return f"{self.name} {losses}: documents in one forward get other logits than each alone"


def own_loss(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Returns the loss that the model's own class gives for the one document of `batch`, summed over its targets."""
    output: Any = model(input_ids=batch.input_ids, labels=batch.input_ids, use_cache=False)
    return output.loss * (batch.input_ids.shape[1] - 1), {"logits": output.logits.float()}


@torch.no_grad()
def measure(name: str, forward: Forward, own: Forward, documents: Sequence[np.ndarray], vocabulary: int) -> Agreement:
    """Returns how a forward of all documents agrees with forwards of each by the model's own class.

    forward, own: an engine's, of (batch, objective), in eval mode; they may be the same. documents: token ids of each,
    at least two documents of at least two tokens. vocabulary: any id below it is a token.
    """
    targets = sum(len(ids) - 1 for ids in documents)
    alone = [own(batch_of([ids]), own_loss) for ids in documents]
    loss, _ = forward(batch_of(documents), None)
    together = forward(batch_of(documents), logits)[1]["logits"][0]  # [S, V]
    other = forward(batch_of([changed(documents[0], vocabulary), *documents[1:]]), logits)[1]["logits"][0]
    first = len(documents[0])
    return Agreement(
        name,
        own=sum(float(value) for value, _ in alone) / targets,
        loss=float(loss) / targets,
        other=distance(other[first:], together[first:]),
        of_logits=distance(torch.cat([sums["logits"][0] for _, sums in alone]), together),
    )


@torch.no_grad()
def check_live(
    engine: Engine, rows: Rows, first: np.ndarray, vocabulary: int, precision: torch.dtype, world: World
) -> None:
    """Raises Disagreement on every process where the live model does not compute what its class means.

    On the shortest of the rows `first`, the same on every process, cut to 256 tokens together, in eval mode. Compiled
    layers run as they are written. It costs a forward of each of them, and three of all.
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
    with torch.compiler.set_stance("force_eager"):
        found = measure(name, forward, forward, documents, vocabulary)
    engine.train(True)
    own = (LOSS_TOLERANCE, LOGIT_TOLERANCE)
    of_loss, of_logits = own if precision == torch.float32 else (BF16_LOSS_TOLERANCE, BF16_LOGIT_TOLERANCE)
    if not isinstance(engine.objective.loss, CrossEntropy):  # a loss of another kind has no own class to agree with
        of_loss = float("inf")
    if reason := from_first(found.wrong(of_loss, of_logits) or "", world):
        raise Disagreement(
            f"{reason}. Nothing was trained. Try: strategy=ddp, model.attention=eager, model.kernels=none or "
            "train.precision=fp32, whichever mends it; or a model of another kind (docs/models.md)"
        )


def batch_of(documents: Sequence[np.ndarray]) -> Batch:
    """Returns one forward of documents of which every token but the first is a target."""
    return make_batch([Row(ids, np.ones(len(ids), bool)) for ids in documents])


def changed(ids: np.ndarray, vocabulary: int) -> np.ndarray:
    return (ids + 1) % vocabulary


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Returns the largest difference over the largest value."""
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-12))
