"""Distillation: divergence from a teacher's distribution, mixed with cross-entropy (Hinton et al. 2015, 1503.02531).

The teacher's k most probable tokens K at a target and their log-probabilities are stored (distft.train.teacher), with
the log-probability of all other tokens together. So distributions are compared over k + 1 outcomes. With teacher p and
student q, both at temperature t, the loss of a target is

    (1 - kl_weight) -log q_1(target) + kl_weight t^2 [sum over K of p log(p / q) + p_rest log(p_rest / q_rest)]

where q_1 is the student at temperature 1, p_rest = 1 - sum over K of p, and q_rest likewise. The bracket is the KL
divergence of the merged distributions: at most that of the whole ones, equal to it for k = V, and 0 only where K and
the rest have the teacher's probabilities. t^2 keeps the size of gradients at any temperature.

Its gradient by the student's logits is t (q - p'), where p' is p inside of K; outside it spreads p_rest as q does.
"""

from dataclasses import dataclass

import torch
from torch import nn

from distft.data.batches import Batch
from distft.losses.cross_entropy import Chunk, Projected, fused, language_states, rows_of_chunk

LEAST = -1e4  # log-probability of what has none: exp of it is 0, and products with it are finite
Sums = dict[str, torch.Tensor]


def divergence_of_chunk(
    logits: torch.Tensor,
    ids: torch.Tensor,
    of_teacher: torch.Tensor,
    temperature: float,
    with_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Returns t^2 times the divergence [C], and its gradient by the logits [C, V].

    logits: [C, V]. ids: int64 [C, k]. of_teacher: log-probabilities [C, k + 1].
    """
    scaled = logits / temperature
    inside = scaled.gather(1, ids)  # [C, k]
    outside = scaled.scatter_(1, ids, float("-inf"))  # [C, V]
    log_rest = outside.logsumexp(-1, keepdim=True).clamp_(min=LEAST)
    total = torch.logaddexp(inside.logsumexp(-1, keepdim=True), log_rest)
    of_student = torch.cat([inside, log_rest], 1) - total  # [C, k + 1]
    teacher = of_teacher.to(of_student.dtype)
    losses = temperature**2 * (teacher.exp() * (teacher - of_student)).sum(-1)
    if not with_gradient:
        return losses, None
    differences = of_student.exp() - teacher.exp()
    gradient = outside.sub_(log_rest).exp_().mul_(differences[:, -1:])
    gradient.scatter_(1, ids, differences[:, :-1])
    return losses, gradient.mul_(temperature)


@dataclass(frozen=True)
class Distilled:
    """Head and loss as one operation: hidden states [T, H] and the head's weight give two sums over T targets.

    targets: [T] int64. ids: int [T, k]. of_teacher: log-probabilities [T, k + 1]. weights: [T], of the targets; None:
    all 1.
    """

    targets: torch.Tensor
    ids: torch.Tensor
    of_teacher: torch.Tensor
    kl_weight: float
    temperature: float
    soft_cap: float | None = None
    weights: torch.Tensor | None = None

    def __call__(
        self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the sum of losses, fp64, and the number of targets that are the argmax of their logits."""
        return fused(hidden, weight, bias, self)

    def chunk(self, logits: torch.Tensor, cut: slice, dtype: torch.dtype | None) -> Chunk:
        """Returns losses [C] and their gradients by the logits [C, V] in `dtype`; None: no gradient."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        slope = None
        if self.soft_cap is not None:
            logits = (logits / self.soft_cap).tanh_()
            slope = 1 - logits.square()
            logits.mul_(self.soft_cap)
        found, gradient = divergence_of_chunk(
            logits, self.ids[cut].long(), self.of_teacher[cut], self.temperature, dtype is not None
        )
        at, share = self.targets[cut, None], 1 - self.kl_weight
        log_sum = logits.logsumexp(-1, keepdim=True)
        losses = self.kl_weight * found + share * (log_sum - logits.gather(1, at))[:, 0]
        if gradient is None or dtype is None:
            return losses, None
        gradient.mul_(self.kl_weight).add_(logits.sub_(log_sum).exp_(), alpha=share)
        gradient.scatter_add_(1, at, torch.full_like(at, -share, dtype=gradient.dtype))
        return losses, (gradient if slope is None else gradient.mul_(slope)).to(dtype)


class Distillation:
    """Sums cross-entropy and the divergence from a teacher over a batch, in nats, each target times its weight.

    Additive over any split. Evaluations measure cross-entropy as `loss`, comparable with other runs, and `kl`, the
    divergence alone.
    """

    def __init__(
        self, teacher: str | None = None, kl_weight: float = 0.5, temperature: float = 1.0, top_k: int = 32
    ) -> None:
        """teacher: its folder, read before training. kl_weight: share of the divergence in the loss, from 0 to 1.
        top_k: tokens per target whose probabilities are stored."""
        self.teacher, self.kl_weight, self.temperature, self.top_k = teacher, kl_weight, temperature, top_k

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, Sums]:
        head, hidden, soft_cap = language_states(model, batch)
        stored = _stored(batch)
        if model.training:
            if stored is None:
                raise RuntimeError(
                    "loss.teacher: the teacher's probabilities of these rows are missing. Try: the same launch again, "
                    "which computes them"
                )
            mixed = Distilled(batch.targets, *stored, self.kl_weight, self.temperature, soft_cap, batch.weights)
            loss, correct = head(hidden, mixed)
            return loss, {"correct": correct}
        loss, correct = head(hidden, Projected(batch.targets, soft_cap=soft_cap, weights=batch.weights))
        if stored is None:  # rows that no stage has read, such as those of a check of the model
            return loss, {"correct": correct}
        kl, _ = head(hidden, Distilled(batch.targets, *stored, 1.0, self.temperature, soft_cap))
        return loss, {"correct": correct, "kl": kl / self.temperature**2}


def _stored(batch: Batch) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Returns the teacher's ids and log-probabilities at the targets; None where there are targets and none of them."""
    if batch.teacher_ids is not None and batch.teacher_log_probabilities is not None:
        return batch.teacher_ids, batch.teacher_log_probabilities
    if len(batch.targets):
        return None
    device = batch.targets.device
    return torch.zeros(0, 1, dtype=torch.int32, device=device), torch.zeros(0, 2, device=device)


@dataclass(frozen=True)
class _TopK:
    """Head and search as one operation: hidden states [T, H] give ids [T, k] and log-probabilities [T, k + 1]."""

    k: int
    temperature: float
    soft_cap: float | None
    vocabulary: int

    def __call__(
        self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        size = rows_of_chunk(weight.shape[0], hidden.device)
        ids = torch.zeros(len(hidden), self.k, dtype=torch.int32, device=hidden.device)
        found = torch.zeros(len(hidden), self.k + 1, device=hidden.device)
        for start in range(0, len(hidden), size):
            cut = slice(start, start + size)
            logits = hidden[cut] @ weight.T if bias is None else torch.addmm(bias, hidden[cut], weight.T)
            logits = logits[:, : self.vocabulary].float()
            if self.soft_cap is not None:
                logits.div_(self.soft_cap).tanh_().mul_(self.soft_cap)
            logits.div_(self.temperature)
            total = logits.logsumexp(-1, keepdim=True)
            top, chosen = logits.topk(self.k, -1)
            rest = logits.scatter_(1, chosen, float("-inf")).logsumexp(-1, keepdim=True)
            ids[cut] = chosen.int()
            found[cut] = (torch.cat([top, rest], 1) - total).clamp_(min=LEAST)
            del logits
        return ids, found


def top_k_of(
    model: nn.Module, batch: Batch, k: int, temperature: float, vocabulary: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the k most probable tokens at each target, int32 [T, k], and log-probabilities, fp32 [T, k + 1].

    The last log-probability is that of all other tokens together. vocabulary: the number of tokens; rows of the head
    beyond it are left out.
    """
    head, hidden, soft_cap = language_states(model, batch)
    return head(hidden, _TopK(k, temperature, soft_cap, vocabulary))
