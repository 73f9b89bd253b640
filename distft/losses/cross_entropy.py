"""Cross-entropy over trained positions, projected in chunks so that [T, V] logits never exist at once.

The logits of all positions never exist together, and no logit is computed twice: a chunk's loss and gradients are
taken at once, so what is kept for the backward pass has the size of the hidden states and of the head.
The method is that of Liger Kernel's fused linear cross-entropy (Hsu et al. 2024, arXiv 2410.10989).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distft.compat.compiler import compiled
from distft.data.batches import Batch

CHUNK_BYTES = 64 * 2**20  # of fp32 logits, on a CPU
CHUNK_BYTES_OF_ACCELERATOR = 2**30  # whose products need thousands of rows to be at full speed
TILE = 256  # rows: what such a product is cut into
BLOCK = 256  # logits of a row
Chunk = tuple[torch.Tensor, torch.Tensor | None]  # of_chunk says of what


def of_chunk(
    logits: torch.Tensor,
    targets: torch.Tensor,
    label_smoothing: float,
    soft_cap: float | None,
    dtype: torch.dtype | None,
) -> Chunk:
    """Returns losses [C] in fp32, and d losses / d logits [C, V] in `dtype`.

    logits: [C, V]; those in fp32 are used up. targets: [C]. dtype: None: without the gradient.
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
    losses = total.log() + highest - of_target + label_smoothing * (of_target - mean)
    if dtype is None:
        return losses[:, 0], None
    spread = label_smoothing / logits.shape[1]
    gradient = probabilities.div_(total)
    gradient_of_target = (of_target - highest).exp() / total - spread + label_smoothing - 1
    if label_smoothing:
        gradient.sub_(spread)
    if slope is not None and soft_cap is not None:
        gradient.mul_(slope)
        gradient_of_target *= 1 - (of_target / soft_cap).square()
    return losses[:, 0], gradient.to(dtype).scatter_(1, at, gradient_of_target.to(dtype))


def argmax_of(logits: torch.Tensor) -> torch.Tensor:
    """Returns the index of the highest logit of each row, [C], and the lowest of equal ones, as torch.argmax does.

    logits: [C, V]. In bf16 the highest two of 50,000 are often equal, so a target that is one of them is no hit yet.
    By blocks, since a reduction that carries indices takes five times as long as one that does not, on a CPU; and not
    in what is compiled, which it would keep from being one loop.
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
    """Returns how many positions are projected at a time."""
    if device.type == "cpu":
        return max(1, CHUNK_BYTES // (4 * vocabulary))
    return max(1, CHUNK_BYTES_OF_ACCELERATOR // (4 * vocabulary * TILE)) * TILE


@dataclass(frozen=True)
class Projected:
    """What folds a head: hidden states [T, H] and the head's weight become two sums over T targets.

    targets: [T] int64. label_smoothing: of the target distribution. soft_cap: c of c tanh(logit / c), where the model
    has one. of_chunk: computes what that function does.
    """

    targets: torch.Tensor
    label_smoothing: float = 0.0
    soft_cap: float | None = None
    of_chunk: Callable[..., Chunk] = of_chunk

    def __call__(
        self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the sum of losses, fp64, and how many targets are the argmax of their logits."""
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
        size = rows_of_chunk(weight.shape[0], hidden.device)
        for start in range(0, len(hidden), size):
            chunk, targets = hidden[start : start + size], asked.targets[start : start + size]
            logits = chunk @ weight.T if bias is None else torch.addmm(bias, chunk, weight.T)
            # torch compiles a size of 1 anew; in fp32 its own operations were no slower, on a CPU
            make = asked.of_chunk if len(chunk) > 1 and logits.dtype != torch.float32 else of_chunk
            correct += (argmax_of(logits) == targets).sum()
            losses, gradient = make(
                logits, targets, asked.label_smoothing, asked.soft_cap, weight.dtype if any(wanted) else None
            )
            loss += losses.sum(dtype=torch.float64)
            if gradient is None:
                continue
            if of_bias is not None:
                of_bias += gradient.sum(0, dtype=torch.float32)
            if of_hidden is not None:
                torch.mm(gradient, weight, out=of_hidden[start : start + size])
            if of_weight is not None and weight.dtype == torch.float32:
                of_weight.addmm_(gradient.T, chunk)
            elif of_weight is not None and weight.device.type == "cuda":  # added up in fp32 inside of the product
                torch.addmm(of_weight, gradient.T, chunk, out_dtype=torch.float32, out=of_weight)
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


class CrossEntropy:
    """Sums -log p(target) in nats over the batch's targets; additive over any split of a batch."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        """label_smoothing: share of the probability spread over the whole vocabulary (Szegedy et al. 2016), for
        training."""
        self.label_smoothing = label_smoothing
        self.of_chunk = of_chunk

    def compile_chunks(self) -> None:
        """Has what is done to a chunk's logits in bf16 compiled, which else reads and writes them ten times."""
        self.of_chunk = compiled(of_chunk)

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        causal: Any = model
        hidden = causal.base_model(**batch.inputs()).last_hidden_state  # [1, S, H]
        smoothing = self.label_smoothing if model.training else 0.0
        soft_cap = getattr(causal.config.get_text_config(), "final_logit_softcapping", None)
        fold = Projected(batch.targets, smoothing, soft_cap, self.of_chunk)
        hidden, factor = hidden[0, batch.positions], logit_factor(causal.config)  # [T, H]
        loss, correct = causal.get_output_embeddings()(hidden if factor == 1 else hidden * factor, fold)
        return loss, {"correct": correct}


def logit_factor(config: Any) -> float:
    """Returns what the model's class multiplies its logits by behind the head: Cohere's and Granite's do."""
    text = config.get_text_config()
    return (getattr(text, "logit_scale", None) or 1.0) / (getattr(text, "logits_scaling", None) or 1.0)


def logits(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Has no value to train on; the logits of every position come as a metric, [1, S, V] in fp32."""
    output = model(**batch.inputs()).logits
    return output.sum() * 0, {"logits": output.float()}
