"""A new parameter is f(seed, its name), whichever rank draws which part of it (DESIGN 4.10)."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from distft.models.build import skeleton
from distft.models.init import FreshWeights
from tests.support.train_cases import tiny_model
from tests.support.trained import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_any_part_of_a_parameter_is_equal_in_any_order(name: str) -> None:
    model = tiny_model(name)
    parameters = {key: tuple(p.shape) for key, p in model.named_parameters()}
    forward, backward = FreshWeights(model, 7), FreshWeights(model, 7)
    whole = {k: forward.read(k, s, 0, torch.Size(s).numel()).clone() for k, s in parameters.items()}
    for key, shape in reversed(parameters.items()):
        count = torch.Size(shape).numel()
        assert torch.equal(backward.read(key, shape, count // 3, count // 2), whole[key][count // 3 :][: count // 2])


@pytest.mark.parametrize("name", MODELS)
def test_values_have_the_distribution_of_the_models_own_init(name: str) -> None:
    model = tiny_model(name)
    torch.manual_seed(0)
    own = AutoModelForCausalLM.from_config(model.config)
    fresh = FreshWeights(model, 0)
    for key, parameter in own.named_parameters():
        mine = fresh.read(key, tuple(parameter.shape), 0, parameter.numel())
        assert mine.std().item() == pytest.approx(parameter.std().item(), rel=0.25, abs=1e-6), key
        assert mine.mean().item() == pytest.approx(parameter.mean().item(), abs=0.01), key


def test_other_seeds_and_other_layers_have_other_values() -> None:
    model = tiny_model("llama3_8b")
    name = "model.layers.{}.mlp.up_proj.weight"
    shape = tuple(model.get_parameter(name.format(0)).shape)
    first, second = (FreshWeights(model, 0).read(name.format(i), shape, 0, 50) for i in (0, 1))
    assert not torch.equal(first, second)
    assert not torch.equal(first, FreshWeights(model, 1).read(name.format(0), shape, 0, 50))


def test_a_parameter_that_no_class_initializes_is_refused() -> None:
    """Apertus sets two numbers of each activation in a constructor; the memory they would be read from is random."""
    model = skeleton(AutoConfig.for_model("apertus", hidden_size=32, num_hidden_layers=1, vocab_size=16), "eager")
    fresh = FreshWeights(model, 0)
    with pytest.raises(RuntimeError, match=r"act_fn.alpha_p has a value only .* apertus has no random instance"):
        fresh.read("model.layers.0.mlp.down_proj.weight", (32, 14336), 0, 1)
