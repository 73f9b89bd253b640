"""Cross-entropy over trained positions, projected in chunks so that [T, V] logits never exist at once.

No logit is computed twice: loss and gradients of a chunk are computed together, so the backward pass needs memory only
of the size of the hidden states and the head.
The method is that of Liger Kernel's fused linear cross-entropy (Hsu et al. 2024, arXiv 2410.10989).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from distft.compat.compiler import compiled
from distft.data.batches import Batch
from distft.losses import OUTPUTS, labels_of, total, weighted_sum
from distft.models.heads import Head, language_head, outputs

CHUNK_BYTES = 64 * 2**20  # of fp32 logits, on a CPU
CHUNK_BYTES_OF_ACCELERATOR = 2**30  # matrix products need thousands of rows for full speed
TILE = 256  # rows: tile of such a product
BLOCK = 256  # logits of a row
Chunk = tuple[torch.Tensor, torch.Tensor | None]  # losses [C] and gradients [C, V], see of_chunk


def of_chunk(
    logits: torch.Tensor,
    targets: torch.Tensor,
    label_smoothing: float,
    soft_cap: float | None,
    dtype: torch.dtype | None,
    z_loss: float = 0.0,
) -> Chunk:
    """Returns losses [C] in fp32, and d losses / d logits [C, V] in `dtype`.

    logits: [C, V]; overwritten where they are fp32. targets: [C]. dtype: None for no gradient. z_loss: of the square of
    log(sum of exp(logits)).
    """
    logits = logits.float()
    slope = None
    if soft_cap is not None:
        logits.div_(soft_cap).tanh_()
        slope = 1 - logits.square() if dtype else None
        logits.mul_(soft_cap)
    at = targets[:, None]
    of_target, highest = logits.gather(1, at), logits.amax(-1, keepdim=True)  # [C, 1]
    mean = logits.mean(-1, keepdim=True) if label_smoothing else of_target
    probabilities = logits.sub_(highest).exp_()
    total = probabilities.sum(-1, keepdim=True)
    log_sum = total.log() + highest
    losses = log_sum - of_target + label_smoothing * (of_target - mean)
    if z_loss:
        losses = losses + z_loss * log_sum.square()
    if dtype is None:
        return losses[:, 0], None
    spread = label_smoothing / logits.shape[1]
    gradient = probabilities.div_(total)
    of_log_sum = (of_target - highest).exp() / total
    if z_loss:
        gradient.mul_(1 + 2 * z_loss * log_sum)
        of_log_sum = of_log_sum * (1 + 2 * z_loss * log_sum)
    gradient_of_target = of_log_sum - spread + label_smoothing - 1
    if label_smoothing:
        gradient.sub_(spread)
    if slope is not None and soft_cap is not None:
        gradient.mul_(slope)
        gradient_of_target *= 1 - (of_target / soft_cap).square()
    return losses[:, 0], gradient.to(dtype).scatter_(1, at, gradient_of_target.to(dtype))


def argmax_of(logits: torch.Tensor) -> torch.Tensor:
    """Returns the index of the highest logit of each row, [C]; of equal ones the lowest, as torch.argmax does.

    logits: [C, V]. Ties are frequent: in bf16 the highest two of 50,000 are often equal.
    Computed by blocks, since on a CPU a reduction with indices takes five times as long as one without; and outside of
    compiled code, where it would split the fused loop.
    """
    whole = logits.shape[1] // BLOCK * BLOCK
    if whole == 0:
        return logits.argmax(-1)
    blocks, rest = logits[:, :whole].unflatten(1, (-1, BLOCK)), logits[:, whole:]
    highest = [blocks.amax(-1), *([rest.amax(-1, keepdim=True)] if rest.shape[1] else [])]
    block = torch.cat(highest, 1).argmax(-1)  # [C]
    inside = blocks[torch.arange(len(logits), device=logits.device), block.clamp(max=blocks.shape[1] - 1)].argmax(-1)
    if rest.shape[1]:
        inside = torch.where(block < blocks.shape[1], inside, rest.argmax(-1))
    return block * BLOCK + inside


def rows_of_chunk(vocabulary: int, device: torch.device) -> int:
    """Returns the positions per chunk."""
    if device.type == "cpu":
        return max(1, CHUNK_BYTES // (4 * vocabulary))
    return max(1, CHUNK_BYTES_OF_ACCELERATOR // (4 * vocabulary * TILE)) * TILE


@dataclass(frozen=True)
class Projected:
    """Head and cross-entropy as one operation: hidden states [T, H] and the head's weight give two sums over T targets.

    targets: [T] int64. label_smoothing: of the target distribution. soft_cap: c in c tanh(logit / c), or None.
    of_chunk: `of_chunk`, or its compiled form. weights: [T], of the targets in the sum of losses; None: all 1.
    """

    targets: torch.Tensor
    label_smoothing: float = 0.0
    soft_cap: float | None = None
    of_chunk: Callable[..., Chunk] = of_chunk
    weights: torch.Tensor | None = None
    z_loss: float = 0.0

    def __call__(
        self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the sum of losses, fp64, and the number of targets that are the argmax of their logits."""
        return fused(hidden, weight, bias, self)

    def chunk(self, logits: torch.Tensor, cut: slice, dtype: torch.dtype | None) -> Chunk:
        # torch recompiles for a size of 1; in fp32 eager code was as fast on a CPU
        make = self.of_chunk if len(logits) > 1 and logits.dtype != torch.float32 else of_chunk
        return make(logits, self.targets[cut], self.label_smoothing, self.soft_cap, dtype, self.z_loss)


class Chunked(Protocol):
    """A loss of T targets that is computed by chunks of their logits."""

    @property
    def targets(self) -> torch.Tensor: ...

    @property
    def weights(self) -> torch.Tensor | None: ...

    def chunk(self, logits: torch.Tensor, cut: slice, dtype: torch.dtype | None) -> Chunk:
        """Returns losses [C] of the targets in `cut`, and gradients by their logits [C, V] in `dtype`; None: none.

        logits: [C, V]; may be overwritten.
        """
        ...


def fused(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, loss: Chunked
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the sum of weighted losses, fp64, and the number of targets that are the argmax of their logits."""
    return _Fused.apply(hidden, weight, bias, loss, torch.is_grad_enabled())  # pyright: ignore


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        spec: Chunked,
        with_gradients: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wanted = [with_gradients and need for need in ctx.needs_input_grad[:3]]
        of_hidden = torch.empty_like(hidden) if wanted[0] else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None
        loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
        size = rows_of_chunk(weight.shape[0], hidden.device)
        for start in range(0, len(hidden), size):
            chunk, targets = hidden[start : start + size], spec.targets[start : start + size]
            logits = chunk @ weight.T if bias is None else torch.addmm(bias, chunk, weight.T)
            correct += (argmax_of(logits) == targets).sum()
            losses, gradient = spec.chunk(logits, slice(start, start + size), weight.dtype if any(wanted) else None)
            if spec.weights is not None:
                weights = spec.weights[start : start + size]
                losses = losses * weights
                gradient = None if gradient is None else gradient.mul_(weights[:, None])
            loss += losses.sum(dtype=torch.float64)
            if gradient is None:
                continue
            if of_bias is not None:
                of_bias += gradient.sum(0, dtype=torch.float32)
            if of_hidden is not None:
                torch.mm(gradient, weight, out=of_hidden[start : start + size])
            if of_weight is not None and weight.dtype == torch.float32:
                of_weight.addmm_(gradient.T, chunk)
            elif of_weight is not None and weight.device.type == "cuda":  # the product accumulates in fp32
                torch.addmm(of_weight, gradient.T, chunk, out_dtype=torch.float32, out=of_weight)
            elif of_weight is not None:
                of_weight += gradient.T @ chunk
            del logits, gradient  # else they live until the next chunk is computed
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


class CrossEntropy:
    """Sums -log p(target) in nats, times the target's weight, over a batch; additive over any split of it.

    The target is the next token, or the class of a row or token.
    """

    def __init__(self, label_smoothing: float = 0.0, z_loss: float = 0.0, class_weights: list | None = None) -> None:
        """label_smoothing: share of the probability spread over the whole vocabulary or all classes (Szegedy et al.
        2016), for training. z_loss: of log(sum of exp(logits))^2 in the loss, for training (PaLM, arXiv 2204.02311).
        class_weights: of each class in the loss; None: all 1. The rows' weights include them (distft.data.shards)."""
        self.label_smoothing, self.z_loss, self.class_weights = label_smoothing, z_loss, class_weights
        self.of_chunk = of_chunk

    def compile_chunks(self) -> None:
        """Compiles the operations on a chunk's bf16 logits, which otherwise read and write them ten times."""
        self.of_chunk = compiled(of_chunk)

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if language_head(model) is None:
            return self._of_classes(outputs(model, batch), batch, model.training)
        head, hidden, soft_cap = language_states(model, batch)
        smoothing, z_loss = (self.label_smoothing, self.z_loss) if model.training else (0.0, 0.0)
        fold = Projected(batch.targets, smoothing, soft_cap, self.of_chunk, batch.weights, z_loss)
        loss, correct = head(hidden, fold)
        return loss, {"correct": correct}

    def _of_classes(
        self, found: torch.Tensor, batch: Batch, is_training: bool
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Returns the sums over units with one class each; found: logits [U, C]."""
        classes = labels_of(batch, found)[:, 0].long()
        losses = F.cross_entropy(
            found, classes, reduction="none", label_smoothing=self.label_smoothing if is_training else 0.0
        )
        if self.z_loss and is_training:
            losses = losses + self.z_loss * found.logsumexp(1).square()
        found = found.detach()
        return weighted_sum(losses, batch), {"correct": total(found.argmax(1) == classes, batch), OUTPUTS: found}


def language_states(model: nn.Module, batch: Batch) -> tuple[Head, torch.Tensor, float | None]:
    """Returns the head, what it reads at each target [T, H], and c in c tanh(logit / c), or None."""
    causal: Any = model
    hidden = causal.base_model(**batch.inputs()).last_hidden_state[0, batch.positions]  # [T, H]
    soft_cap = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)
    factor = logit_factor(causal.config)
    return causal.get_output_embeddings(), hidden if factor == 1 else hidden * factor, soft_cap


def logit_factor(config: Any) -> float:
    """Returns the factor that the model's class applies to the head's logits, as Cohere's and Granite's do."""
    text = config.get_text_config()
    return (getattr(text, "logit_scale", None) or 1.0) / (getattr(text, "logits_scaling", None) or 1.0)


def logits(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Returns zero as the loss, and the logits of every position as a metric, [1, S, V] in fp32."""
    output = model(**batch.inputs()).logits
    return output.sum() * 0, {"logits": output.float()}
