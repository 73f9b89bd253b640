"""The chunked projection gives the plain loss and its gradients, with memory for one chunk.

A loss is a sum over targets, additive over any split of a batch, for any model class.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn import functional as F

from distft.data.batches import collate, make_batch
from distft.data.shards import Rows
from distft.losses import cross_entropy
from distft.losses.cross_entropy import CrossEntropy, Projected, of_chunk
from tests.losses.live_bytes import LiveBytes
from tests.support.ranks import run_ranks
from tests.support.reference import dense
from tests.support.rows import write_rows, write_sums

T, H, V = 37, 24, 101
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": True},
    "smoothing": {"smoothing": 0.1},
    "cap": {"cap": 3.0},
    "all": {"bias": True, "smoothing": 0.2, "cap": 2.0},
}


def made(dtype: torch.dtype, bias: bool = False, **_: Any) -> list[torch.Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(shape, generator=generator).to(dtype) for shape in ((T, H), (V, H), (V,))]
    return [parts[0], parts[1], parts[2] if bias else None]


def plain(inputs: list[torch.Tensor | None], targets: torch.Tensor, smoothing: float = 0.0, cap: float | None = None):
    hidden, weight, bias = inputs
    assert hidden is not None and weight is not None
    logits = F.linear(hidden, weight, bias)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing), logits


def gradients(value: torch.Tensor, inputs: list[torch.Tensor | None]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(value * 0.3, [each for each in inputs if each is not None]))


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
@pytest.mark.parametrize("rows", [1, 8, 1000])
def test_value_and_gradients_are_those_of_the_plain_loss(
    case: dict[str, Any], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", rows * 4 * V)
    targets = torch.randint(0, V, (T,), generator=torch.Generator().manual_seed(1))
    mine = [each if each is None else each.requires_grad_() for each in made(torch.float32, **case)]
    value, correct = Projected(targets, case.get("smoothing", 0.0), case.get("cap"))(*mine)  # pyright: ignore
    exact = [each if each is None else each.detach().double().requires_grad_() for each in mine]
    expected, logits = plain(exact, targets, case.get("smoothing", 0.0), case.get("cap"))
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert correct.item() == (logits.argmax(-1) == targets).sum().item()
    for gradient, reference in zip(gradients(value, mine), gradients(expected, exact), strict=True):
        torch.testing.assert_close(gradient.double(), reference, rtol=0, atol=1e-5 * reference.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [49_152, 50_257, 101])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_accuracy_resolves_ties_like_argmax(vocabulary: int, dtype: torch.dtype) -> None:
    """In bf16 many do, and the highest of 49,152 is often two. The weights of the last third are those of the first."""
    generator, rows = torch.Generator().manual_seed(0), 64  # of one chunk, so the product below has the same bits
    weight = torch.randn(vocabulary, 16, generator=generator).to(dtype)
    weight[-(vocabulary // 3) :] = weight[: vocabulary // 3]
    hidden = torch.randn(rows, 16, generator=generator).to(dtype)
    logits = hidden @ weight.T
    highest = logits == logits.amax(-1, keepdim=True)
    last = vocabulary - 1 - highest.flip(-1).to(torch.int8).argmax(-1)  # of those that are equal
    assert (highest.sum(-1) > 1).sum() > 10, "there are ties"
    chosen = logits.argmax(-1)
    targets = torch.where(torch.arange(rows) % 4 == 0, chosen, last)
    _, correct = Projected(targets)(hidden, weight, None)
    assert correct == (chosen == targets).sum() < rows == highest[torch.arange(rows), targets].sum()
    assert cross_entropy.argmax_of(logits).equal(chosen)


@pytest.mark.slow
def test_compiled_bf16_loss_is_equal_for_any_target_count(monkeypatch: pytest.MonkeyPatch, require: Any) -> None:
    """One graph for all chunks, whose gradient is rounded to bf16 once, as it is uncompiled."""
    require("g++")
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 8 * 4 * V)  # chunks of 8, the last of 1 to 8
    torch._dynamo.reset()
    counters.clear()
    loss = CrossEntropy()
    loss.compile_chunks()
    settings = {"label_smoothing": 0.1, "soft_cap": 3.0}
    for number in (13, 8, 17, 37, 2, 1):
        targets = torch.randint(0, V, (number,), generator=torch.Generator().manual_seed(number))
        hidden, weight, _ = made(torch.bfloat16)
        assert hidden is not None and weight is not None
        results = []
        for how in (of_chunk, loss.of_chunk):
            mine = [hidden[:number].clone().requires_grad_(), weight.clone().requires_grad_()]
            value, hits = Projected(targets, **settings, of_chunk=how)(*mine, None)
            results.append((value.detach(), hits, *torch.autograd.grad(value, mine)))
        for eager, compiled in zip(*results, strict=True):
            torch.testing.assert_close(compiled, eager, rtol=0, atol=2**-8 * eager.abs().max().item())
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


@pytest.mark.slow
def test_train_compile_compiles_the_loss_of_a_worker(tmp_path: Path, require: Any) -> None:
    require("g++")
    rows = write_sums(tmp_path) / "rows.jsonl"
    assert run_ranks(1, "tests.losses.in_force", str(rows)) == {"true": True, "false": False}


def test_a_frozen_head_costs_no_gradient_of_its_own() -> None:
    hidden, weight, _ = made(torch.float32)
    assert hidden is not None and weight is not None
    targets = torch.arange(T)
    value, _ = Projected(targets)(hidden.requires_grad_(), weight, None)
    value.backward()
    assert hidden.grad is not None and weight.grad is None


def test_without_gradients_the_value_is_the_same() -> None:
    hidden, weight, _ = made(torch.float32)
    assert hidden is not None and weight is not None
    with_gradients, _ = Projected(torch.arange(T))(hidden.requires_grad_(), weight.requires_grad_(), None)
    with torch.no_grad():
        without, _ = Projected(torch.arange(T))(hidden, weight, None)
    assert without == with_gradients and not without.requires_grad


def test_bf16_sums_the_heads_gradient_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Added up in bf16 over many chunks, it would lose what is below 1/256 of the sum so far."""
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 4 * V)  # a chunk for each target
    targets = torch.arange(T) % 3
    mine = [each if each is None else each.requires_grad_() for each in made(torch.bfloat16)]
    value, _ = Projected(targets)(*mine)  # pyright: ignore
    exact = [each if each is None else each.detach().double().requires_grad_() for each in mine]
    expected, _ = plain(exact, targets)
    [_, of_weight], [_, reference] = gradients(value, mine), gradients(expected, exact)
    assert of_weight.dtype == torch.bfloat16
    torch.testing.assert_close(of_weight.double(), reference, rtol=0, atol=0.006 * reference.abs().max().item())


def test_ignored_targets_give_zero_loss_and_gradients() -> None:
    weight = torch.randn(V, H, requires_grad=True)
    hidden = torch.zeros(0, H, requires_grad=True)
    value, correct = Projected(torch.zeros(0, dtype=torch.int64))(hidden, weight, None)
    value.backward()
    assert value.item() == 0 and correct.item() == 0 and weight.grad is not None and not weight.grad.any()


def peak_of(targets: int, vocabulary: int, hidden_size: int = 64) -> int:
    hidden = torch.randn(targets, hidden_size, requires_grad=True)
    weight = torch.randn(vocabulary, hidden_size, requires_grad=True)
    with LiveBytes() as live:
        value, _ = Projected(torch.zeros(targets, dtype=torch.int64))(hidden, weight, None)
        value.backward()
    return live.peak


@pytest.mark.slow
def test_memory_is_bounded_by_a_chunk_and_the_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 2**22)
    targets, vocabulary, size = 1024, 4096, 64
    base = peak_of(targets, vocabulary)
    assert base < 1.1 * 2**22 + 4 * size * (targets + vocabulary), "the logits of all alone are 4 chunks"
    more_targets = peak_of(4 * targets, vocabulary) - 4 * size * 3 * targets
    more_words = peak_of(targets, 4 * vocabulary) - 4 * size * 3 * vocabulary
    assert more_targets == pytest.approx(base, rel=0.05) and more_words == pytest.approx(base, rel=0.05)


@pytest.mark.parametrize(
    ("vocabulary", "device", "rows"),
    [
        (128_256, "cuda", 2048),
        (32_000, "cuda", 8192),
        (2_000_000, "cuda", 256),
        (128_256, "cpu", 130),
        (10**9, "cpu", 1),
    ],
)
def test_a_chunk_fills_the_device_that_projects_it(vocabulary: int, device: str, rows: int) -> None:
    """In whole tiles of 256 rows on an accelerator; on a CPU as little as its memory likes."""
    assert cross_entropy.rows_of_chunk(vocabulary, torch.device(device)) == rows


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama3_8b", "gpt2"])
def test_the_sum_over_rows_is_the_sum_over_batches(name: str, tmp_path: Path) -> None:
    rows, model, loss = Rows(write_rows(tmp_path), "train"), dense(name, 0).eval(), CrossEntropy()
    whole, _ = loss(model, collate(rows, np.arange(6)))
    parts = [loss(model, collate(rows, np.asarray(part)))[0] for part in ([0], [1, 2], [3, 4, 5])]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)


def test_it_is_the_models_loss_times_its_targets(tmp_path: Path) -> None:
    rows, model = Rows(write_rows(tmp_path), "train"), dense("llama3_8b", 0).eval()
    row = rows[0]
    ids = torch.from_numpy(row.input_ids.astype("int64"))[None]
    labels = torch.where(torch.from_numpy(row.trained), ids, -100)
    own = model(input_ids=ids, labels=labels).loss
    mine, sums = CrossEntropy()(model, collate(rows, np.asarray([0])))
    assert mine.item() / rows.num_targets[0] == pytest.approx(own.item(), rel=1e-6)
    logits = model(input_ids=ids).logits[0, :-1][torch.from_numpy(row.trained[1:])]
    assert sums["correct"] == (logits.argmax(-1) == labels[0, 1:][labels[0, 1:] >= 0]).sum()


@pytest.mark.slow
def test_each_target_counts_by_its_weight(tmp_path: Path) -> None:
    rows, model = Rows(write_rows(tmp_path), "train"), dense("llama3_8b", 0).eval()
    weighted = [replace(rows[i], weights=(rows[i].trained * (i + 0.5)).astype(np.float32)) for i in range(3)]
    batch = make_batch([*weighted, rows[3]])
    value, sums = CrossEntropy()(model, batch)
    value.backward()
    mine = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    alone = [CrossEntropy()(model, collate(rows, np.asarray([i]))) for i in range(4)]
    expected = 0.5 * alone[0][0] + 1.5 * alone[1][0] + 2.5 * alone[2][0] + alone[3][0]
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert sums["correct"] == sum(each["correct"] for _, each in alone)
    for one, parameter in zip(mine, model.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(one, parameter.grad, rtol=1e-4, atol=1e-6)
    assert float(batch.weight) == sum((i + 0.5) * rows.num_targets[i] for i in range(3)) + rows.num_targets[3]


def test_no_target_gives_zero_loss_and_gradient() -> None:
    model = dense("llama3_8b", 0)
    value, _ = CrossEntropy()(model, make_batch([]))
    value.backward()
    assert value.item() == 0 and all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_label_smoothing_is_for_training_only(tmp_path: Path) -> None:
    rows, model = Rows(write_rows(tmp_path), "train"), dense("llama3_8b", 0)
    batch = collate(rows, np.arange(4))
    smoothed = CrossEntropy(label_smoothing=0.1)
    assert smoothed(model.eval(), batch)[0] == CrossEntropy()(model, batch)[0]
    logits = model(**batch.inputs()).logits[0, batch.positions]
    expected = F.cross_entropy(logits, batch.targets, reduction="sum", label_smoothing=0.1)
    assert smoothed(model.train(), batch)[0].item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.slow
def test_z_loss_is_the_squared_log_of_the_sum(tmp_path: Path) -> None:
    rows, model = Rows(write_rows(tmp_path), "train"), dense("llama3_8b", 0)
    batch, loss = collate(rows, np.arange(4)), CrossEntropy(z_loss=0.1)
    assert loss(model.eval(), batch)[0] == CrossEntropy()(model, batch)[0]
    value, _ = loss(model.train(), batch)
    value.backward()
    mine = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    logits = model(**batch.inputs()).logits[0, batch.positions]
    squares = logits.logsumexp(1).square().sum()
    expected = F.cross_entropy(logits, batch.targets, reduction="sum") + 0.1 * squares
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(mine[name], parameter.grad, rtol=1e-4, atol=1e-5)
