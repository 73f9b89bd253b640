"""What preference losses share: the log-probabilities of both answers of a pair, their rewards, and the metrics.

A row is two documents, prompt with chosen answer and prompt with rejected answer. A loss gets one number per document
from one forward pass over both, so it is a function of [P] tensors in fp64. The unit is the pair: a loss returns the
sum over the pairs of a batch, each times its weight; the step divides by the sum of the weights of the global batch.

A reward is what a loss compares, in nats times beta. Metrics are sums too:
preference_accuracy  pairs whose chosen answer has the higher reward
margin               reward of the chosen minus reward of the rejected answer
reward_chosen, reward_rejected
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from distft.data.batches import Batch
from distft.losses import total, weighted_sum
from distft.losses.log_probabilities import Documents, log_probabilities

Reference = Literal["auto", "adapter", "stored"]  # where the log-probabilities of the frozen base come from
Sums = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Answers:
    """One side of P pairs, each tensor [P] fp64."""

    log_probabilities: torch.Tensor  # of the answer's tokens, in nats
    counts: torch.Tensor  # trained tokens
    reference: torch.Tensor | None = None  # log-probabilities under the frozen base

    @property
    def ratios(self) -> torch.Tensor:
        """log p(answer) - log p_reference(answer)."""
        assert self.reference is not None, "the loss declares a reference"
        return self.log_probabilities - self.reference

    @property
    def per_token(self) -> torch.Tensor:
        """Mean log-probability of a token of the answer."""
        return self.log_probabilities / self.counts


@dataclass(frozen=True)
class Scored:
    """The loss of each pair, and the rewards that it compares, each [P]."""

    losses: torch.Tensor
    chosen: torch.Tensor
    rejected: torch.Tensor


OfPairs = Callable[[Answers, Answers], Scored]


def sigmoid_loss(difference: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Returns -log sigmoid(difference), or its mean where labels are wrong with probability `label_smoothing`."""
    right = -logsigmoid(difference)
    return right if not label_smoothing else right * (1 - label_smoothing) - logsigmoid(-difference) * label_smoothing


def sum_over_pairs(
    model: nn.Module, batch: Batch, of_pairs: OfPairs, reference: Reference | None
) -> tuple[torch.Tensor, Sums]:
    """Returns the sum of the losses of a batch's pairs, fp64, and the sums of the metrics.

    reference: None for a loss that needs none.
    """
    frozen = None if reference is None else reference_of(model, batch, reference)  # [P, 2]; it keeps no activations
    documents = log_probabilities(model, batch)
    chosen, rejected = (answers_of(documents, batch, side, frozen) for side in (0, 1))
    scored = of_pairs(chosen, rejected)
    return weighted_sum(scored.losses, batch) + anchor(documents), pair_sums(scored, batch)


def anchor(documents: Documents) -> torch.Tensor:
    """Returns zero that depends on every parameter, so that a micro-batch without rows has a backward pass too."""
    return documents.log_probabilities.sum() * 0.0


def pair_sums(scored: Scored, batch: Batch) -> Sums:
    """Returns the metrics of the pairs of a batch, as sums over them, each counted once."""
    chosen, rejected = scored.chosen.detach(), scored.rejected.detach()
    return {
        "preference_accuracy": total(chosen > rejected, batch, chosen.dtype),
        "margin": total(chosen - rejected, batch),
        "reward_chosen": total(chosen, batch),
        "reward_rejected": total(rejected, batch),
    }


def first_documents(batch: Batch) -> torch.Tensor:
    """Returns the first document of each row of a batch, [U] int64; a batch without rows has none."""
    if batch.first_documents is not None:
        return batch.first_documents
    return torch.zeros(0, dtype=torch.int64, device=batch.input_ids.device)


def answers_of(documents: Documents, batch: Batch, side: int, reference: torch.Tensor | None) -> Answers:
    """Returns the answers on one side of the rows. reference: [U, sides] fp64, or None."""
    at = first_documents(batch) + side
    of = None if reference is None else reference[:, side]
    return Answers(documents.log_probabilities[at], documents.counts[at], of)


def reference_of(model: nn.Module, batch: Batch, reference: Reference, num_sides: int = 2) -> torch.Tensor:
    """Returns the log-probabilities of the answers under the frozen base, [U, sides] fp64.

    They are read from the batch where they were stored; else the model runs once more with its adapters switched off,
    also on a batch without rows, since a sharded model gathers its weights on all processes.
    """
    if reference == "stored" or (reference == "auto" and not hasattr(model, "disable_adapter")):
        if batch.reference is not None:
            return batch.reference
        if len(first_documents(batch)):
            raise RuntimeError(
                "loss.reference: the stored log-probabilities of these rows are missing. Try: the same launch again, "
                "which computes them"
            )
        return torch.zeros(0, num_sides, dtype=torch.float64, device=batch.input_ids.device)
    causal: Any = model
    without: Callable[[], AbstractContextManager[None]] = causal.disable_adapter
    with torch.no_grad(), without():
        found = log_probabilities(model, batch).log_probabilities
    first = first_documents(batch)
    return torch.stack([found[first + side] for side in range(num_sides)], 1)
