"""The log-probability of each document is that of the plain model in fp64, with memory for one chunk of logits."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distft.data.batches import make_batch
from distft.data.shards import Row
from distft.losses import cross_entropy
from distft.losses.log_probabilities import TargetLogProbabilities, log_probabilities, sum_by_document
from tests.losses.live_bytes import LiveBytes
from tests.support.reference import dense
from tests.support.train_cases import REAL_VOCABULARY

T, H, V = 20, 16, 49_152
CASES: dict[str, dict[str, Any]] = {"plain": {}, "bias": {"bias": True}, "cap": {"cap": 3.0}}


def inputs(dtype: torch.dtype, bias: bool = False) -> list[torch.Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(shape, generator=generator).to(dtype) for shape in ((T, H), (V, H), (V,))]
    return [parts[0], parts[1], parts[2] if bias else None]


def plain(parts: list[torch.Tensor | None], targets: torch.Tensor, cap: float | None) -> torch.Tensor:
    hidden, weight, bias = parts
    assert hidden is not None and weight is not None
    logits = F.linear(hidden, weight, bias)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
@pytest.mark.parametrize("rows", [8, 1000])
def test_values_and_gradients_are_those_of_a_log_softmax(
    case: dict[str, Any], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", rows * 4 * V)
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(0, V, (T,), generator=generator)
    weights = torch.randn(T, generator=generator)  # of the gradient: each target has another
    cap = case.get("cap")
    mine = [part if part is None else part.requires_grad_() for part in inputs(torch.float32, case.get("bias", False))]
    exact = [part if part is None else part.detach().double().requires_grad_() for part in mine]
    found = TargetLogProbabilities(targets, cap)(*mine)  # pyright: ignore
    expected = plain(exact, targets, cap)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    mine, exact = ([part for part in parts if part is not None] for parts in (mine, exact))
    gradients = torch.autograd.grad(found, mine, weights), torch.autograd.grad(expected, exact, weights.double())
    for gradient, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient.double(), reference, rtol=0, atol=2e-5 * reference.abs().max().item())


@pytest.mark.slow
def test_bf16_sums_the_gradient_of_the_head_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 4 * V)  # a chunk for each target
    targets = torch.arange(T) % 3
    hidden, weight, _ = (part if part is None else part.requires_grad_() for part in inputs(torch.bfloat16))
    assert hidden is not None and weight is not None
    exact: list[torch.Tensor | None] = [hidden.detach().double(), weight.detach().double().requires_grad_(), None]
    TargetLogProbabilities(targets)(hidden, weight, None).sum().backward()
    plain(exact, targets, None).sum().backward()
    assert weight.grad is not None and exact[1] is not None and exact[1].grad is not None
    reference = exact[1].grad
    torch.testing.assert_close(weight.grad.double(), reference, rtol=0, atol=0.008 * reference.abs().max().item())


@pytest.mark.slow
def test_no_pass_keeps_the_logits_of_all_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 4 * 4 * V)
    targets = torch.arange(T)
    hidden, weight, _ = (part if part is None else part.requires_grad_() for part in inputs(torch.float32))
    assert hidden is not None and weight is not None
    with LiveBytes() as live:
        found = TargetLogProbabilities(targets)(hidden, weight, None)
        kept = live.now
        found.sum().backward()
    assert kept < 4 * V and live.peak < (4 * 4 * V) * 4 + 2 * 4 * V * H, "a few chunks, and the gradient of the head"


def rows_of(lengths: list[tuple[int, int]]) -> list[Row]:
    """Returns rows of (tokens, trained tokens at their end)."""
    random = np.random.default_rng(0)
    return [Row(random.integers(0, V, n).astype(np.int32), np.arange(n) >= n - trained) for n, trained in lengths]


def test_sums_are_by_document_also_of_one_without_targets() -> None:
    batch = make_batch(rows_of([(5, 2), (4, 0), (1, 1), (7, 7), (3, 1)]))
    values = torch.arange(1.0, 10.0).requires_grad_()
    found = sum_by_document(values, batch)
    assert found.log_probabilities.tolist() == [3.0, 0.0, 0.0, 33.0, 9.0]
    assert found.counts.tolist() == [2, 1, 1, 6, 1] and found.log_probabilities.dtype == torch.float64
    (found.log_probabilities * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [1, 1, 4, 4, 4, 4, 4, 4, 5]


def test_a_batch_without_rows_gives_zeros_and_a_gradient() -> None:
    batch = make_batch([])
    values = torch.zeros(0, requires_grad=True)
    found = sum_by_document(values, batch)
    found.log_probabilities.sum().backward()
    assert found.log_probabilities.tolist() == [0.0] and values.grad is not None


@pytest.mark.slow
def test_packed_documents_have_the_values_they_have_alone() -> None:
    model = dense("llama3_8b", 0, **REAL_VOCABULARY)
    rows = rows_of([(6, 3), (11, 4), (9, 8)])
    together = log_probabilities(model, make_batch(rows)).log_probabilities
    for row, found in zip(rows, together.tolist(), strict=True):
        ids = torch.from_numpy(row.input_ids.astype(np.int64))[None]
        logits = model.double()(input_ids=ids).logits[0, :-1].log_softmax(-1)
        model.float()
        trained = torch.from_numpy(row.trained[1:])
        expected = logits.gather(1, ids[0, 1:, None])[trained].sum().item()
        assert found == pytest.approx(expected, rel=1e-6)
