"""A skeleton costs no memory for weights, and is otherwise the model: buffers, tied weights, names."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from distft.models.build import blocks
from tests.support.train_cases import tiny_model
from tests.support.trained import MODELS


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
