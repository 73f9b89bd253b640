"""Layers compiled by torch.compile: one graph for all of a kind, whatever a micro-batch holds, and the same numbers."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from distft.data.batches import Batch, make_batch
from distft.data.shards import Row
from distft.losses.cross_entropy import CrossEntropy
from distft.models.build import blocks, compile_blocks, recompute
from tests.support.reference import dense

CPU = torch.device("cpu")
# model, what is computed again, kinds of layers, who turns graphs into code: the second does not, which takes long
CASES = [
    ("llama3_8b", "selective", 1, "inductor"),
    ("llama3_8b", "none", 1, "aot_eager"),
    ("gemma3_4b", "none", 2, "aot_eager"),
]


def batches() -> list[Batch]:
    """Returns micro-batches that differ in their tokens, their documents, and the longest of them."""
    random = np.random.default_rng(0)
    shapes = [(40, 17, 7), (23,), (9, 9, 9, 9, 30, 1)]
    return [
        make_batch([Row(random.integers(0, 256, n).astype(np.int32), np.arange(n) % 4 == 0) for n in lengths])
        for lengths in shapes
    ]


def gradients(model: Any, batch: Batch) -> list[torch.Tensor]:
    model.zero_grad()
    value, _ = CrossEntropy()(model, batch)
    value.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_what_cannot_be_one_graph_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = dense("gpt2", 0)
    with pytest.raises(ValueError, match="sdpa can be compiled on CPUs only. Try: model.attention=varlen"):
        compile_blocks(model, [], torch.device("cuda"))
    model.config.attn_pdrop = 0.1
    with pytest.raises(ValueError, match=r"the model's attn_pdrop is not 0. Try: train.compile=false"):
        compile_blocks(model, [], CPU)
    model.config.attn_pdrop = 0.0
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"no-such-compiler is not installed. Try: train.compile=false"):
        compile_blocks(model, [], CPU)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "what", "kinds", "backend"), CASES)
def test_one_graph_serves_all_layers_and_all_micro_batches(
    name: str, what: str, kinds: int, backend: str, monkeypatch: pytest.MonkeyPatch, require: Any
) -> None:
    require("g++")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    model, plain = dense(name, 0).train(), dense(name, 0).train()
    repeated = list(blocks(model).values())
    recompute(model, what)
    compile_blocks(model, repeated, CPU)
    first, *others = batches()
    mine = gradients(model, first)
    assert counters["stats"]["unique_graphs"] == kinds
    with torch._dynamo.config.patch(error_on_recompile=True):
        again = [gradients(model, batch) for batch in others]
    assert not counters["graph_break"]
    for batch, done in zip((first, *others), (mine, *again), strict=True):
        for gradient, expected in zip(done, gradients(plain, batch), strict=True):
            torch.testing.assert_close(gradient, expected, rtol=0, atol=2e-6 * expected.abs().max().item())
