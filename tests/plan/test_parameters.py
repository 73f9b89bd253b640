"""Parameters are counted without torch exactly as torch counts them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from distft.paths import conf_dir
from distft.plan.memory import FAMILIES, count_adapters, count_parameters, parts_of

MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
KNOWN = {
    "smollm2_135m": 134_515_008,
    "llama3_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "qwen3_8b": 8_190_735_360,
    "mistral_7b": 7_248_023_552,
    "gemma3_4b": 3_880_263_168,  # 4,300,079,472 of the whole less vision tower and projector (419,816,304)
    "gpt2": 124_439_808,
}


def facts_of(model: str, *, tiny: bool) -> dict[str, Any]:
    values = yaml.safe_load((conf_dir() / "model" / f"{model}.yaml").read_text())
    return values["architecture"] | (values["tiny_architecture"] if tiny else {})


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("tiny", [True, False], ids=["tiny", "whole"])
def test_the_closed_form_counts_what_the_meta_model_has(model: str, tiny: bool):
    from distft.models.build import architecture, skeleton

    facts = facts_of(model, tiny=tiny)
    live = skeleton(architecture(None, facts), "eager")
    assert count_parameters(None, facts) == sum(parameter.numel() for parameter in live.parameters())


@pytest.mark.parametrize("model", KNOWN)
def test_models_have_the_size_their_makers_say(model: str):
    assert count_parameters(None, facts_of(model, tiny=False)) == KNOWN[model]


@pytest.mark.parametrize("extra", [{"attention_bias": True, "mlp_bias": True}, {"tie_word_embeddings": True}])
def test_biases_and_tied_heads_of_other_llamas_are_counted(extra: dict[str, Any]):
    from distft.models.build import architecture, skeleton

    facts = facts_of("llama3_8b", tiny=True) | extra
    live = skeleton(architecture(None, facts), "eager")
    assert count_parameters(None, facts) == sum(parameter.numel() for parameter in live.parameters())


def test_a_models_own_files_decide_and_stored_buffers_and_tied_heads_do_not_count(tmp_path: Path):
    weights = {"model.embed_tokens.weight": (4, 2), "lm_head.weight": (4, 2), "h.0.attn.bias": (1, 1, 8, 8), "b": (3,)}
    save_file({name: np.zeros(shape, np.float32) for name, shape in weights.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    assert count_parameters(tmp_path, {"model_type": "llama"}) == 4 * 2 + 3
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": False}))
    assert count_parameters(tmp_path, {"model_type": "llama"}) == 2 * 4 * 2 + 3


def test_an_unknown_family_is_not_guessed_at():
    assert count_parameters(None, {"model_type": "quantum"}) is None
    assert {facts_of(model, tiny=False)["model_type"] for model in MODELS} <= set(FAMILIES)


def test_a_damaged_file_is_said_to_be_one(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(RuntimeError, match=r"model\.safetensors is damaged"):
        count_parameters(tmp_path, {})


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("pick", ["all-linear", "first and last"])
def test_adapters_are_counted_as_the_meta_model_has_them(model: str, pick: str, tmp_path: Path):
    from distft.models.adapters import Lora, linear_layers
    from distft.models.build import architecture, skeleton

    facts = facts_of(model, tiny=True)
    live = skeleton(architecture(None, facts), "eager")
    names = list(linear_layers(live))
    targets = pick if pick == "all-linear" else [names[0], names[-1]]
    save_file({k: np.zeros(p.shape, np.uint8) for k, p in live.named_parameters()}, tmp_path / "model.safetensors")
    Lora(rank=4, target_modules=targets)(live)
    expected = sum(parameter.numel() for parameter in live.parameters() if parameter.requires_grad)
    assert count_adapters(None, facts, 4, targets) == expected
    assert count_adapters(tmp_path, {}, 4, targets) == expected, "from a folder's headers"


def test_a_layer_without_an_adapters_place_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"tuning.target_modules: q_prj is not a linear layer.*Try: q_proj"):
        count_adapters(None, facts_of("llama3_8b", tiny=True), 4, ["q_prj"])
    assert count_adapters(None, {"model_type": "quantum"}, 4, ["q_prj"]) is None


@pytest.mark.parametrize("model", MODELS)
def test_parts_are_told_apart_as_the_meta_model_has_them(model: str, tmp_path: Path):
    from distft.models.build import architecture, blocks, skeleton

    facts = facts_of(model, tiny=True)
    live = skeleton(architecture(None, facts), "eager")
    of_blocks = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks(live).values()]
    found = parts_of(None, facts)
    assert found is not None and found.total - found.outside == sum(of_blocks) and found.block == max(of_blocks)
    head = live.get_output_embeddings().weight
    assert (found.head, found.tied) == (head.numel(), head is live.get_input_embeddings().weight)
    stored = {k: np.zeros(p.shape, np.uint8) for k, p in live.named_parameters()}
    save_file(stored, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": found.tied}))
    assert parts_of(tmp_path, {}) == found, "from a folder's headers"
