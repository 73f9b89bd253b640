"""Adapters need no memory before a strategy has sharded them, and keep the base model's names."""

from typing import Any

import pytest
import torch
import yaml
from hydra.utils import instantiate

from distft.models.adapters import Lora, is_adapter
from distft.models.build import blocks
from distft.models.init import FreshWeights
from distft.paths import conf_dir
from tests.support.reference import dense
from tests.support.train_cases import tiny_model
from tests.support.trained import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_adapters_on_meta_keep_the_base_models_names(name: str) -> None:
    plain = {key: tuple(p.shape) for key, p in tiny_model(name).named_parameters()}
    model = Lora(rank=4)(tiny_model(name))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert {k: tuple(p.shape) for k, p in model.named_parameters() if not p.requires_grad} == plain
    assert all(is_adapter(key) == p.requires_grad for key, p in model.named_parameters())
    assert len(blocks(model)) == model.config.num_hidden_layers
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == bool(model.config.tie_word_embeddings)


def test_only_the_named_layers_get_an_adapter() -> None:
    values = yaml.safe_load((conf_dir() / "tuning" / "lora.yaml").read_text())
    model = instantiate(values | {"rank": 4, "target_modules": ["q_proj", "up_proj"]})(tiny_model("llama3_8b"))
    layers = {key.split(".")[-3] for key, p in model.named_parameters() if p.requires_grad}
    assert layers == {"q_proj", "up_proj"}


def test_a_missing_layer_is_named() -> None:
    with pytest.raises(ValueError, match=r"target_modules: q_prj is not a linear layer. Allowed: q_proj, k_proj"):
        Lora(target_modules=["q_prj"])(tiny_model("llama3_8b"))


def test_new_adapters_are_neutral_and_seeded_per_layer() -> None:
    fresh, other = (FreshWeights(tiny_model("llama3_8b"), seed) for seed in (0, 1))
    name = "model.layers.{}.mlp.up_proj.lora_{}.weight"
    a = fresh.read(name.format(0, "A"), (4, 64), 0, 256)
    assert a.abs().max() <= 64**-0.5 and a.std().item() == pytest.approx((1 / 3 / 64) ** 0.5, rel=0.1)
    assert torch.equal(fresh.read(name.format(0, "A"), (4, 64), 10, 30), a[10:40])
    assert not torch.equal(fresh.read(name.format(1, "A"), (4, 64), 0, 256), a)
    assert not torch.equal(other.read(name.format(0, "A"), (4, 64), 0, 256), a)
    assert not fresh.read(name.format(0, "B"), (128, 4), 0, 512).any()


@pytest.mark.slow
@torch.no_grad()
def test_switched_off_adapters_leave_the_base_without_dropout() -> None:
    """What a preference loss takes as its reference, in the middle of a training step."""
    model: Any = dense("gpt2", 0, embd_pdrop=0.5)
    ids = torch.arange(12)[None]
    base = model.eval()(input_ids=ids).logits
    tuned: Any = Lora(rank=4, dropout=0.5)(model)
    for name, module in list(tuned.named_modules()):
        if name.endswith(("lora_A", "lora_B")):
            module.weight = torch.nn.Parameter(torch.randn(module.weight.shape))
    tuned.train()
    assert not torch.equal(tuned(input_ids=ids).logits, base)
    with pytest.raises(KeyError), tuned.disable_adapter():
        assert torch.equal(tuned(input_ids=ids).logits, base)
        raise KeyError
    assert tuned.training and not torch.equal(tuned(input_ids=ids).logits, base)
