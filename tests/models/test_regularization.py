"""Dropout reaches the live model under the architecture's own names; NEFTune's noise is that of transformers."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, LlamaConfig
from transformers.integrations.neftune import neftune_post_forward_hook

from distft.config.model_folder import dropout_names, refused_dropout
from distft.data.batches import make_batch
from distft.data.shards import Row
from distft.models.build import skeleton
from distft.models.regularization import (
    add_noise,
    check_dropout,
    dropout_settings,
    effective_dropout,
    effective_noise,
    noise_scale,
    set_dropout,
)
from tests.support.reference import dense


def test_names_in_the_source_are_those_of_the_class() -> None:
    for config in (LlamaConfig(), GPT2Config()):
        assert set(dropout_names(config.model_type) or ()) == set(dropout_settings(config))
    assert dropout_names("mamba") == () and dropout_names("no_such_model") is None


def test_dropout_of_another_architecture_is_refused() -> None:
    llama = {"model_type": "llama"}
    assert refused_dropout(0.1, llama) is None and refused_dropout({"attention_dropout": 0.1}, llama) is None
    message = refused_dropout({"hidden_dropout": 0.1}, llama)
    assert message and "is not a dropout setting of llama. Allowed: attention_dropout." in message
    assert "Did you mean attention_dropout?" in str(refused_dropout({"attn_dropout": 0.1}, llama))
    assert "mamba has no dropout" in str(refused_dropout(0.1, {"model_type": "mamba"}))
    with pytest.raises(ValueError, match="llama has no hidden_dropout. Allowed: attention_dropout"):
        set_dropout(LlamaConfig(), {"hidden_dropout": 0.1})


def test_dropout_is_read_back_from_the_live_model() -> None:
    config = GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=64, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)
    set_dropout(config, {"resid_pdrop": 0.25})
    model = skeleton(config, "auto")
    assert effective_dropout(model) == {"0.1": 3, "0.25": 4}, (
        "2 x (attention, MLP) of 0.25; embedding, 2 x scores of 0.1"
    )
    check_dropout(model, {"resid_pdrop": 0.25})
    set_dropout(config, 0)
    assert effective_dropout(skeleton(config, "auto")) == {}
    with pytest.raises(RuntimeError, match="model.dropout=0.5: not in force"):
        check_dropout(model, 0.5)


def embedded(model: Any, lengths: list[int], seed: int) -> torch.Tensor:
    """Returns what comes out of the embedding layer for documents of these lengths; [S, H]."""
    rows = [_row(length) for length in lengths]
    seen: list[torch.Tensor] = []
    handle = model.get_input_embeddings().register_forward_hook(lambda *found: seen.append(found[2].detach()))
    torch.manual_seed(seed)
    model(**make_batch(rows).inputs())
    handle.remove()
    return seen[0][0]


def _row(length: int) -> Row:
    return Row(np.arange(1, length + 1, dtype=np.int32), np.ones(length, bool))


@pytest.mark.slow
def test_the_noise_of_one_document_is_that_of_transformers() -> None:
    plain, noisy = dense("llama3_8b", 0), dense("llama3_8b", 0)
    add_noise(noisy, 5.0)
    assert effective_noise(noisy) == 5.0 and effective_noise(plain) is None
    theirs = plain.get_input_embeddings()
    theirs.neftune_noise_alpha = 5.0
    theirs.register_forward_hook(neftune_post_forward_hook)
    for model in (plain, noisy):
        model.train(True)
    torch.testing.assert_close(embedded(noisy, [11], 3), embedded(plain, [11], 3), rtol=1e-5, atol=1e-7)
    noisy.train(False), plain.train(False)
    assert torch.equal(embedded(noisy, [11], 3), embedded(plain, [11], 3)), "none in evaluation"


@pytest.mark.slow
def test_packing_does_not_change_how_loud_the_noise_is() -> None:
    model = dense("llama3_8b", 0)
    clean = embedded(model.train(False), [9, 4, 1], 0)
    add_noise(model, 5.0)
    noise = embedded(model.train(True), [9, 4, 1], 0) - clean
    hidden = noise.shape[1]
    for rows, length in ((noise[:9], 9), (noise[9:13], 4), (noise[13:], 1)):
        bound = 5.0 / (length * hidden) ** 0.5
        assert 0.8 * bound < rows.abs().max() <= bound * (1 + 1e-5)
    starts = torch.tensor([0, 9, 13, 14], dtype=torch.int32)
    expected = [(length * hidden) ** -0.5 for length in (9, 4, 1) for _ in range(length)]
    torch.testing.assert_close(noise_scale(starts, 14, hidden), torch.tensor(expected))


@pytest.mark.slow
def test_the_noise_is_a_function_of_the_seed() -> None:
    model = dense("llama3_8b", 0)
    add_noise(model, 5.0)
    model.train(True)
    assert torch.equal(embedded(model, [9, 4], 1), embedded(model, [9, 4], 1))
    assert not torch.equal(embedded(model, [9, 4], 1), embedded(model, [9, 4], 2))
