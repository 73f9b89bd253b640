"""A packed document gets the logits that it has alone, and does not attend to the others (DESIGN 4.4).

Attention as one operation of a compiled graph is bit-equal to one call per document, forward and backward.
"""

from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import BloomConfig

from distft.data.batches import Batch, make_batch
from distft.data.shards import Row
from distft.models.attention.choose import check_separable, choose
from distft.models.attention.sdpa import documents_attention, documents_sdpa
from distft.models.build import architecture, skeleton
from distft.models.init import FreshWeights
from distft.paths import conf_dir

MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
CASES = [(name, kernel) for name in MODELS for kernel in ("sdpa", "eager")]  # which run without an accelerator
LENGTHS = (7, 40, 1, 21)  # longer and shorter than the tiny models' windows


def live(name: str, kernel: str) -> Any:
    """Returns the tiny model of conf/model/NAME.yaml with its weights in memory."""
    values = yaml.safe_load((conf_dir() / "model" / f"{name}.yaml").read_text())
    empty = skeleton(architecture(None, values["architecture"] | values["tiny_architecture"]), kernel)
    source = FreshWeights(empty, 0)
    model = type(empty)(empty.config)
    model.tie_weights()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(source.read(key, tuple(parameter.shape), 0, parameter.numel()).view(parameter.shape))
    return model.eval()


def documents(seed: int) -> list[Row]:
    random = np.random.default_rng(seed)
    return [Row(random.integers(0, 256, length).astype(np.int32), np.ones(length, bool)) for length in LENGTHS]


def logits_of(model: Any, batch: Batch) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(model(**batch.inputs()).logits[0].split(batch.lengths))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kernel"), CASES)
def test_a_document_has_the_logits_it_has_alone(name: str, kernel: str) -> None:
    model, rows = live(name, kernel), documents(0)
    together = logits_of(model, make_batch(rows))
    for row, mine in zip(rows, together, strict=True):
        [alone] = logits_of(model, make_batch([row]))
        torch.testing.assert_close(mine, alone, rtol=0, atol=2e-6 * alone.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kernel"), CASES)
def test_another_document_changes_no_bit_of_it(name: str, kernel: str) -> None:
    model, rows, others = live(name, kernel), documents(0), documents(1)
    before = logits_of(model, make_batch(rows))
    for changed in (0, 1, 3):
        mixed = [others[i] if i == changed else row for i, row in enumerate(rows)]
        after = logits_of(model, make_batch(mixed))
        assert all(torch.equal(before[i], after[i]) for i in range(len(rows)) if i != changed)
        assert not torch.equal(before[changed], after[changed])


@pytest.mark.parametrize("name", ["llama3_8b", "mistral_7b", "gemma3_4b"])
def test_it_equals_the_attention_of_transformers(name: str) -> None:
    """Also in a batch of rows, as an export's check feeds it, and with a window narrower than the row."""
    mine, own = live(name, "sdpa"), live(name, "sdpa")
    own.set_attn_implementation("eager")
    ids = torch.randint(0, 256, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = own(input_ids=ids).logits
        torch.testing.assert_close(
            mine(input_ids=ids).logits, expected, rtol=0, atol=2e-6 * expected.abs().max().item()
        )


def test_gradients_flow_inside_documents_alone() -> None:
    model, rows = live("llama3_8b", "sdpa"), documents(0)
    batch = make_batch(rows)
    embedded = model.get_input_embeddings()(batch.input_ids).detach().requires_grad_()
    inputs = batch.inputs() | {"input_ids": None, "inputs_embeds": embedded}
    model(**inputs).logits[0].split(batch.lengths)[1].sum().backward()
    assert embedded.grad is not None
    touched = [bool(part.any()) for part in embedded.grad[0].split(batch.lengths)]
    assert touched == [False, True, False, False]


def test_a_training_forward_without_borders_is_an_error() -> None:
    empty = skeleton(live("gpt2", "sdpa").config, "eager")
    with pytest.raises(ValueError, match=r"without document_lengths. Try: model\(\*\*batch.inputs"):
        empty.train()(input_ids=torch.zeros(1, 4, dtype=torch.int64))


def test_a_missing_kernel_is_an_error_without_fallback() -> None:
    for word in ("flash_attention_2", "varlen", "flex_attention"):
        with pytest.raises(ValueError, match=rf"model.attention={word}: .* Try: model.attention=sdpa"):
            choose(word)


def test_a_model_that_would_mix_documents_is_refused() -> None:
    config = live("llama3_8b", "sdpa").config
    config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match="has layers of linear_attention, which would mix packed"):
        check_separable(config)
    with pytest.raises(ValueError, match="BloomForCausalLM does not use transformers' attention interf"):
        check_separable(BloomConfig())


HEADS, GROUPS, SIZE = 6, 2, 16


def parts(dtype: torch.dtype) -> list[torch.Tensor]:
    """Returns query, key and value as a projection leaves them: [1, S, heads, size], seen the other way round."""
    given = torch.Generator().manual_seed(0)
    made = [torch.randn(1, sum(LENGTHS), heads, SIZE, generator=given) for heads in (HEADS, GROUPS, GROUPS)]
    return [part.to(dtype).requires_grad_() for part in made]


@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_is_called_once_per_document(dtype: torch.dtype, window: int | None, scale: float | None) -> None:
    mine, own = parts(dtype), parts(dtype)
    borders = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32)
    turned = [part.transpose(1, 2) for part in own]
    expected, _ = documents_sdpa(
        torch.nn.Identity(), *turned, None, scaling=scale, sliding_window=window, document_lengths=LENGTHS
    )
    done, _ = documents_attention(*(part.transpose(1, 2) for part in mine), borders, scale, window)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected.backward(gradient)
    done.backward(gradient)
    assert torch.equal(done, expected)
    for one, other in zip(mine, own, strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.equal(one.grad, other.grad)


@pytest.mark.slow
def test_it_follows_torchs_rules_for_custom_operators() -> None:
    """Its shapes without data are those with data, it writes to no input, and its gradients are as registered."""
    borders = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32)
    given = tuple(part.detach().transpose(1, 2).requires_grad_() for part in parts(torch.float32))
    torch.library.opcheck(documents_attention, (*given, borders, None, None))
