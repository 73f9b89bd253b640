"""Models that cannot be trained here are refused by name, before anything is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from distft.config.model_folder import causal_lm_types, wrong_architecture, wrong_model


def folder(path: Path, facts: dict[str, Any], weights: str = "model.safetensors") -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(facts))
    (path / weights).touch()
    return path


def test_a_plain_model_is_taken(tmp_path: Path):
    assert list(wrong_model(folder(tmp_path, {"model_type": "llama"}))) == []


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "mixtral is a mixture of experts (num_local_experts=8)"),
        ({"model_type": "gpt_oss", "num_local_experts": 32}, "gpt_oss is a mixture of experts"),
        ({"model_type": "qwen3_moe", "num_experts": 128}, "qwen3_moe is a mixture of experts"),
        ({"model_type": "deepseek_v3", "n_routed_experts": 256}, "deepseek_v3 is a mixture of experts"),
        ({"model_type": "gemma3", "vision_config": {}}, "gemma3 has more than text (vision_config)"),
        ({"model_type": "t5"}, "t5 is no causal language model"),
        ({"model_type": "lama"}, "Nearest: llama"),
        ({"model_type": "mylab", "auto_map": {"AutoModelForCausalLM": "m.M"}}, "mylab needs code out of the model's"),
    ],
    ids=lambda value: value.get("model_type") if isinstance(value, dict) else "",
)
def test_an_architecture_is_refused_by_its_name(facts: dict[str, Any], said: str, tmp_path: Path):
    [error] = wrong_model(folder(tmp_path, facts))
    assert error.startswith(f"model.path={tmp_path}: ") and said in error and "Nearest: " in error


def test_pickled_weights_are_refused(tmp_path: Path):
    [error] = wrong_model(folder(tmp_path, {"model_type": "llama"}, weights="pytorch_model.bin"))
    assert "pytorch_model.bin is a pickle" in error


def test_a_folder_without_config_names_the_model_beside_it(tmp_path: Path):
    folder(tmp_path / "model", {"model_type": "llama"})
    (tmp_path / "modle").mkdir()
    [error] = wrong_model(tmp_path / "modle")
    assert "config.json is missing" in error and str(tmp_path / "model") in error


def test_a_broken_config_is_said_to_be_broken(tmp_path: Path):
    (folder(tmp_path, {}) / "config.json").write_text("{")
    [error] = wrong_model(tmp_path)
    assert "config.json cannot be read" in error


def test_the_types_read_from_source_are_those_of_transformers():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert causal_lm_types() == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def test_one_expert_is_no_mixture():
    assert list(wrong_architecture({"model_type": "llama", "num_experts": 1})) == []
