"""Layers compiled by torch.compile: one graph per kind of layer, for any micro-batch, and the same numbers.

Activation checkpointing: fewer activations are kept, no number changes, no expensive operation runs twice.
Fused kernels replace layers of the model, or are refused with the reason; the real ones need a device.
Calls of Liger are checked against a package with the same interface; the real one, 0.8.5, was applied to five families
by hand (docs/dev/evidence.md).
A skeleton on meta has no weights in memory, and otherwise equals the model: buffers, tied weights, names.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from distft.data.batches import Batch, make_batch
from distft.data.shards import Row
from distft.losses.cross_entropy import CrossEntropy
from distft.models.build import RECOMPUTED, blocks, compile_blocks, fused_layers, recompute, use_kernels
from tests.support.reference import dense
from tests.support.train_cases import tiny_model
from tests.support.trained import MODELS

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


@pytest.mark.slow
def test_a_graph_break_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
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


def trained(name: str, what: str, batch: Batch) -> tuple[list[torch.Tensor], int, int]:
    """Returns gradients, operations of matrix products and attention, and the bytes kept for the backward pass."""
    torch.manual_seed(0)
    model = dense(name, 0).train()
    recompute(model, what)
    kept, operations = MemTracker(), FlopCounterMode(display=False)
    kept.track_external(model)
    with operations, kept:
        value, _ = CrossEntropy()(model, batch)
        now: Any = kept.get_tracker_snapshot("current")[torch.device("cpu")]
        value.backward()
    activations = next(size for kind, size in now.items() if "ACT" in str(kind))
    return [parameter.grad for parameter in model.parameters()], operations.get_total_flops(), activations


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama3_8b", "gemma3_4b", "gpt2"])
def test_recomputing_changes_only_the_kept_activations(name: str) -> None:
    batch = make_batch([Row(np.arange(length, dtype=np.int32), np.arange(length) % 4 == 0) for length in (40, 17, 7)])
    done = {what: trained(name, what, batch) for what in RECOMPUTED}
    gradients, operations, kept = done["none"]
    for what in ("selective", "full"):
        for expected, gradient in zip(gradients, done[what][0], strict=True):
            assert torch.equal(expected, gradient)
    assert done["selective"][1] == operations
    assert operations * 1.2 < done["full"][1] <= operations * 4 / 3
    assert done["full"][2] < done["selective"][2] < 0.8 * kept


@pytest.mark.slow
@pytest.mark.parametrize("what", ["selective", "full"])
def test_hooks_run_once_in_a_recomputed_layer(what: str) -> None:
    model = dense("llama3_8b", 0).train()
    recompute(model, what)
    layers, calls, runs = list(blocks(model).values()), [], []
    for layer in layers:
        layer.register_forward_pre_hook(lambda *_: calls.append(1))
        next(layer.children()).register_forward_pre_hook(lambda *_: runs.append(1))
    value, _ = CrossEntropy()(model, make_batch([Row(np.arange(9, dtype=np.int32), np.arange(9) % 4 == 0)]))
    value.backward()
    assert (len(calls), len(runs)) == (len(layers), 2 * len(layers))


LIKE_LIGER = """
from types import MethodType


def forward(self, hidden):
    return hidden


def _apply_liger_kernel_to_instance(model, **options):
    assert options == {"cross_entropy": False, "fused_linear_cross_entropy": False}, options
    if model.config.model_type == "llama":
        for layer in model.model.layers:
            layer.mlp.forward = MethodType(forward, layer.mlp)
"""


@pytest.fixture
def liger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "liger_kernel" / "transformers"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").write_text(LIKE_LIGER)
    for name in [name for name in sys.modules if name.startswith("liger_kernel")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)


def test_none_does_not_change_the_model() -> None:
    model = tiny_model("llama3_8b")
    use_kernels(model, "none")
    assert fused_layers(model) == {}


def test_missing_kernels_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distft.compat.liger.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="liger-kernel is not installed. Try: pip install liger-kernel"):
        use_kernels(tiny_model("llama3_8b"), "liger")


def test_layers_are_replaced_and_the_losses_left_out(liger: None) -> None:
    model = tiny_model("llama3_8b")
    names = [name for name, _ in model.named_parameters()]
    use_kernels(model, "liger")
    assert fused_layers(model) == {"LlamaMLP": model.config.num_hidden_layers}
    assert [name for name, _ in model.named_parameters()] == names


def test_a_model_without_liger_kernels_is_refused(liger: None) -> None:
    with pytest.raises(ValueError, match="Liger has no kernels for GPT2LMHeadModel. Try: model.kernels=none"):
        use_kernels(tiny_model("gpt2"), "liger")


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_on_meta_and_buffers_are_the_models_own(name: str) -> None:
    model = tiny_model(name)
    own = AutoModelForCausalLM.from_config(model.config)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in own.named_parameters()]
    for (key, buffer), (_, expected) in zip(model.named_buffers(), own.named_buffers(), strict=True):
        assert torch.equal(buffer, expected), key


@pytest.mark.parametrize("name", MODELS)
def test_tied_weights_are_one_parameter(name: str) -> None:
    model = tiny_model(name)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == bool(model.config.tie_word_embeddings)


@pytest.mark.parametrize("name", MODELS)
def test_blocks_are_the_layers(name: str) -> None:
    model = tiny_model(name)
    assert len(blocks(model)) == model.config.num_hidden_layers
