"""Log-probabilities of the targets, projected in chunks so that [T, V] logits never exist at once, and their sums.

The forward pass keeps one number per target. The backward pass computes the logits of a chunk again, because the weight
of a target's gradient is known only once the losses of the whole documents are.
Trap: a document's sum over hundreds of answers' tokens loses the margin of a pair in fp32, so sums are fp64.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distft.data.batches import Batch
from distft.losses.cross_entropy import language_states, rows_of_chunk


def _capped(logits: torch.Tensor, soft_cap: float | None) -> torch.Tensor:
    """Returns c tanh(logits / c), in place; the logits themselves where there is no cap."""
    return logits if soft_cap is None else logits.div_(soft_cap).tanh_().mul_(soft_cap)


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, soft_cap: float | None
) -> torch.Tensor:
    """Returns the logits of a chunk in fp32, or in fp64 where the weights are, [C, V]."""
    logits = hidden @ weight.T if bias is None else torch.addmm(bias, hidden, weight.T)
    return _capped(logits if logits.dtype == torch.float64 else logits.float(), soft_cap)


@dataclass(frozen=True)
class TargetLogProbabilities:
    """Head and log-softmax as one operation: hidden states [T, H] and the head's weight give log p(target), [T].

    targets: [T] int64. soft_cap: c in c tanh(logit / c), or None.
    """

    targets: torch.Tensor
    soft_cap: float | None = None

    def __call__(self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Returns log p(target) in nats, fp32 [T]; fp64 for a head in fp64."""
        return _LogProbabilities.apply(hidden, weight, bias, self)  # pyright: ignore  # Function.apply is untyped


class _LogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        spec: TargetLogProbabilities,
    ) -> torch.Tensor:
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        found = torch.empty(len(hidden), dtype=dtype, device=hidden.device)
        totals = torch.empty_like(found)  # log of the sum of exp of the logits
        size = rows_of_chunk(weight.shape[0], hidden.device)
        for start in range(0, len(hidden), size):
            cut = slice(start, start + size)
            logits = _logits(hidden[cut], weight, bias, spec.soft_cap)
            totals[cut] = torch.logsumexp(logits, -1)
            found[cut] = logits.gather(1, spec.targets[cut, None])[:, 0] - totals[cut]
            del logits  # else it lives until the next chunk is computed
        ctx.save_for_backward(hidden, weight, bias, totals)
        ctx.spec = spec
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore
        (of_output,) = grad_outputs  # [T]
        hidden, weight, bias, totals = ctx.saved_tensors
        spec: TargetLogProbabilities = ctx.spec
        needs = ctx.needs_input_grad
        dtype = totals.dtype
        of_hidden = torch.empty_like(hidden) if needs[0] else None
        of_weight = torch.zeros_like(weight, dtype=dtype) if needs[1] else None
        of_bias = torch.zeros_like(bias, dtype=dtype) if bias is not None and needs[2] else None
        size = rows_of_chunk(weight.shape[0], hidden.device)
        for start in range(0, len(hidden), size):
            cut = slice(start, start + size)
            logits = _logits(hidden[cut], weight, bias, spec.soft_cap)
            slope = None if spec.soft_cap is None else 1 - (logits / spec.soft_cap).square()
            gradient = logits.sub_(totals[cut, None]).exp_().neg_()  # -p, [C, V]
            at = spec.targets[cut, None]
            gradient.scatter_add_(1, at, torch.ones_like(at, dtype=dtype))
            gradient.mul_(of_output[cut, None])
            if slope is not None:
                gradient.mul_(slope)
            if of_bias is not None:
                of_bias += gradient.sum(0)
            gradient = gradient.to(weight.dtype)
            if of_hidden is not None:
                torch.mm(gradient, weight, out=of_hidden[cut])
            if of_weight is not None and weight.dtype == dtype:
                of_weight.addmm_(gradient.T, hidden[cut])
            elif of_weight is not None and weight.device.type == "cuda":  # the product accumulates in fp32
                torch.addmm(of_weight, gradient.T, hidden[cut], out_dtype=torch.float32, out=of_weight)
            elif of_weight is not None:
                of_weight += gradient.T @ hidden[cut]
            del logits, gradient
        return (
            of_hidden,
            None if of_weight is None else of_weight.to(weight.dtype),
            None if of_bias is None or bias is None else of_bias.to(bias.dtype),
            None,
        )


@dataclass(frozen=True)
class Documents:
    """Log-probability of the trained tokens of each document of a batch."""

    log_probabilities: torch.Tensor  # [D] fp64, sums over the document's targets in nats
    counts: torch.Tensor  # [D] fp64, targets per document; at least 1, so that it divides


class _SumByDocument(torch.autograd.Function):
    """Sums of consecutive runs of [T] values, fp64 [D]; in the same order on every device, unlike index_add."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, document: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(document)
        ctx.dtype = values.dtype
        return torch.segment_reduce(values.double(), "sum", lengths=counts, unsafe=True, initial=0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore
        (document,) = ctx.saved_tensors
        return grad_outputs[0][document].to(ctx.dtype), None, None


def sum_by_document(values: torch.Tensor, batch: Batch) -> Documents:
    """Returns the sums of the values of a batch's targets, [T], over each of its D documents."""
    document = batch.documents  # [T]
    counts = torch.searchsorted(document, torch.arange(len(batch.lengths) + 1, device=document.device)).diff()
    return Documents(_SumByDocument.apply(values, document, counts), counts.clamp(min=1).double())  # pyright: ignore


def log_probabilities(model: nn.Module, batch: Batch) -> Documents:
    """Returns the log-probability of each document's trained tokens, given the tokens before them in the document."""
    head, hidden, soft_cap = language_states(model, batch)
    return sum_by_document(head(hidden, TargetLogProbabilities(batch.targets, soft_cap)), batch)
