"""The divergence from a teacher is its formula in fp64, with memory for a few chunks of logits."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distft.data.batches import make_batch
from distft.data.shards import Row
from distft.losses import cross_entropy
from distft.losses.distillation import LEAST, Distilled, divergence_of_chunk, top_k_of
from tests.losses.live_bytes import LiveBytes
from tests.support.reference import dense

T, H, V, K = 20, 16, 49_152, 12


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def teacher(logits: torch.Tensor, k: int, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the k most probable tokens and k + 1 log-probabilities, by sums of probabilities."""
    p, ids = (logits / temperature).softmax(-1).topk(k)
    return ids, torch.cat([p, 1 - p.sum(-1, keepdim=True)], -1).log()


def formula(logits: torch.Tensor, ids: torch.Tensor, of_teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """As docs/tasks.md has it."""
    q = (logits / temperature).softmax(-1).gather(-1, ids)
    q = torch.cat([q, 1 - q.sum(-1, keepdim=True)], -1)
    return temperature**2 * (of_teacher.exp() * (of_teacher - q.log())).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_value_and_gradient_are_the_formula_in_fp64(temperature: float) -> None:
    logits = random(T, V, scale=3.0).requires_grad_()
    ids, of_teacher = teacher(random(T, V, seed=1, scale=3.0), K, temperature)
    expected = formula(logits, ids, of_teacher, temperature)
    [of_logits] = torch.autograd.grad(expected.sum(), logits)
    found, gradient = divergence_of_chunk(logits.detach(), ids, of_teacher, temperature, with_gradient=True)
    assert gradient is not None
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, of_logits, rtol=1e-9, atol=1e-15)


def test_with_the_whole_vocabulary_it_is_the_kl_divergence() -> None:
    own, other = random(T, 30), random(T, 30, seed=1)
    ids, _ = teacher(other, 30, 1.0)
    log_p = other.log_softmax(-1).gather(1, ids)
    stored = torch.cat([log_p, torch.full((T, 1), LEAST, dtype=torch.float64)], 1)
    found, _ = divergence_of_chunk(own, ids, stored, 1.0, with_gradient=False)
    expected = F.kl_div(own.log_softmax(-1), other.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_fewer_tokens_never_give_a_larger_divergence() -> None:
    own, other, before = random(T, 300), random(T, 300, seed=1), torch.zeros(T, dtype=torch.float64)
    for k in (1, 4, 50, 299):
        found, _ = divergence_of_chunk(own.clone(), *teacher(other, k, 1.0), 1.0, with_gradient=False)
        assert (found >= before - 1e-12).all()
        before = found


@pytest.mark.parametrize("scale", [1.0, 500.0])
def test_a_student_like_its_teacher_has_no_loss(scale: float) -> None:
    """Also where all probability is on one token, and the rest has none in fp32."""
    logits = random(T, 300, scale=scale).float()
    top, ids = logits.topk(4)
    rest = logits.scatter(1, ids, float("-inf")).logsumexp(-1, keepdim=True)
    stored = (torch.cat([top, rest], 1) - logits.logsumexp(-1, keepdim=True)).clamp(min=LEAST)
    found, gradient = divergence_of_chunk(logits, ids, stored, 1.0, with_gradient=True)
    assert gradient is not None
    assert found.abs().max() < 1e-6 and gradient.abs().max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("case", [{}, {"bias": True}, {"cap": 3.0}], ids=["plain", "bias", "cap"])
def test_the_fused_loss_is_that_of_all_logits_at_once(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 8 * 4 * V)  # 8 targets, then 8, then 4
    cap, share, temperature = case.get("cap"), 0.7, 2.0
    targets, weights = torch.arange(T) * 7 % V, 0.5 + random(T).abs()
    exact = [random(T, H), random(V, H, seed=2), random(V, seed=3)][: 3 if case.get("bias") else 2]
    exact = [part.float().double().requires_grad_() for part in exact]
    mine = [part.detach().float().requires_grad_() for part in exact]
    ids, of_teacher = teacher(random(T, V, seed=4, scale=2.0), K, temperature)

    logits = F.linear(*exact)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    nll = F.cross_entropy(logits, targets, reduction="none")
    expected = (weights * ((1 - share) * nll + share * formula(logits, ids, of_teacher, temperature))).sum()
    loss = Distilled(targets, ids.int(), of_teacher.float(), share, temperature, cap, weights.float())
    found, correct = loss(*mine, *([None] if len(mine) == 2 else []))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert correct == (logits.argmax(-1) == targets).sum()
    gradients = torch.autograd.grad(found, mine), torch.autograd.grad(expected, exact)
    for gradient, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient.double(), reference, rtol=0, atol=2e-5 * reference.abs().max().item())


@pytest.mark.slow
def test_memory_is_that_of_a_few_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 4 * V)  # a chunk for each target
    ids, of_teacher = teacher(random(T, V), K, 1.0)
    hidden, weight = random(T, H).float().requires_grad_(), random(V, H).float().requires_grad_()
    loss = Distilled(torch.arange(T), ids.int(), of_teacher.float(), 0.5, 1.0)
    with LiveBytes() as live:
        loss(hidden, weight, None)[0].backward()
    assert live.peak < 6 * 4 * V + 2 * 4 * V * H, "a few chunks, and the gradient of the head"


def test_a_teachers_probabilities_are_those_of_its_logits() -> None:
    model, ids = dense("smollm2_135m", 0).eval(), np.arange(9)
    chosen, found = top_k_of(model, make_batch([Row(ids.astype(np.int32), np.ones(9, bool))]), 5, 1.5, 300)
    logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0, :-1, :300]  # the others are no tokens
    p, expected = (logits / 1.5).double().softmax(-1).topk(5)
    assert torch.equal(chosen.long(), expected)
    torch.testing.assert_close(found[:, :5].double().exp(), p, rtol=1e-5, atol=0)
    torch.testing.assert_close(found[:, 5].double().exp(), 1 - p.sum(-1), rtol=1e-5, atol=0)
