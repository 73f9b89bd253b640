"""Cross-entropy of hidden states, projected onto the vocabulary a chunk of positions at a time.

The logits of all positions never exist together, and no logit is computed twice: a chunk's loss and gradients are
taken at once, so what is kept for the backward pass has the size of the hidden states and of the head.
The method is that of Liger Kernel's fused linear cross-entropy (Hsu et al. 2024, arXiv 2410.10989).
"""

from dataclasses import dataclass
from typing import Any

import torch

CHUNK_BYTES = 64 * 2**20  # of fp32 logits


@dataclass(frozen=True)
class Projected:
    """What folds a head: hidden states [T, H] and the head's weight become two sums over T targets.

    targets: [T] int64. label_smoothing: of the target distribution. soft_cap: c of c tanh(logit / c), where the model
    has one.
    """

    targets: torch.Tensor
    label_smoothing: float = 0.0
    soft_cap: float | None = None

    def __call__(
        self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the sum of losses, fp64, and how many targets had the highest logit."""
        return _CrossEntropy.apply(hidden, weight, bias, self, torch.is_grad_enabled())  # pyright: ignore


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        asked: Projected,
        with_gradients: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wanted = [with_gradients and need for need in ctx.needs_input_grad[:3]]
        of_hidden = torch.empty_like(hidden) if wanted[0] else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None
        loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
        size = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
        for start in range(0, len(hidden), size):
            chunk, targets = hidden[start : start + size], asked.targets[start : start + size]
            logits = chunk @ weight.T if bias is None else torch.addmm(bias, chunk, weight.T)
            logits = logits.float()  # [C, V]
            losses, hits, gradient = _of_chunk(logits, targets, asked, any(wanted))
            loss += losses.sum(dtype=torch.float64)
            correct += hits
            if gradient is None:
                continue
            if of_bias is not None:
                of_bias += gradient.sum(0)
            gradient = gradient.to(weight.dtype)
            if of_hidden is not None:
                torch.mm(gradient, weight, out=of_hidden[start : start + size])
            if of_weight is not None and weight.dtype == torch.float32:
                of_weight.addmm_(gradient.T, chunk)
            elif of_weight is not None:
                of_weight += gradient.T @ chunk
            del logits, gradient  # else they would live until the next chunk has its own
        ctx.gradients = (of_hidden, of_weight, of_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, bias.dtype if bias is not None else None)
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore
        scale, _ = grad_outputs
        scaled = [
            gradient.mul_(scale).to(dtype) if gradient is not None else None
            for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        ]
        ctx.gradients = (None, None, None)
        return *scaled, None, None


def _of_chunk(
    logits: torch.Tensor, targets: torch.Tensor, asked: Projected, with_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Returns losses [C], the number of hits, and d losses / d logits [C, V], which takes the place of the logits."""
    if asked.soft_cap is not None:
        logits.div_(asked.soft_cap).tanh_()
        slope = 1 - logits.square() if with_gradient else None
        logits.mul_(asked.soft_cap)
    else:
        slope = None
    at = targets[:, None]
    of_target, highest = logits.gather(1, at)[:, 0], logits.amax(-1)
    mean = logits.mean(-1) if asked.label_smoothing else None
    probabilities = logits.sub_(highest[:, None]).exp_()
    total = probabilities.sum(-1)
    losses = total.log() + highest - of_target
    if mean is not None:
        losses = losses + asked.label_smoothing * (of_target - mean)
    hits = (of_target == highest).sum()
    if not with_gradient:
        return losses, hits, None
    gradient = probabilities.div_(total[:, None])
    if asked.label_smoothing:
        gradient.sub_(asked.label_smoothing / gradient.shape[1])
    gradient.scatter_add_(1, at, torch.full_like(of_target, asked.label_smoothing - 1)[:, None])
    if slope is not None:
        gradient.mul_(slope)
    return losses, hits, gradient
