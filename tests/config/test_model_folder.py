"""Models that cannot be trained here are refused by name, before anything is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from distft.config.model_folder import causal_lm_types, wrong_architecture, wrong_model, wrong_models


def folder(path: Path, facts: dict[str, Any], weights: str = "model.safetensors") -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(facts))
    (path / weights).touch()
    return path


def test_a_plain_model_is_accepted(tmp_path: Path):
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
        ({"model_type": "lama"}, "Try: llama"),
        ({"model_type": "mylab", "auto_map": {"AutoModelForCausalLM": "m.M"}}, "mylab needs code out of the model's"),
    ],
    ids=lambda value: value.get("model_type") if isinstance(value, dict) else "",
)
def test_an_architecture_is_refused_by_its_name(facts: dict[str, Any], said: str, tmp_path: Path):
    [error] = wrong_model(folder(tmp_path, facts))
    assert error.startswith(f"model.path={tmp_path}: ") and said in error and "Try: " in error


def test_pickled_weights_are_refused(tmp_path: Path):
    [error] = wrong_model(folder(tmp_path, {"model_type": "llama"}, weights="pytorch_model.bin"))
    assert "pytorch_model.bin is a pickle" in error


def test_a_folder_without_config_suggests_a_model_nearby(tmp_path: Path):
    folder(tmp_path / "model", {"model_type": "llama"})
    (tmp_path / "modle").mkdir()
    [error] = wrong_model(tmp_path / "modle")
    assert "config.json is missing" in error and str(tmp_path / "model") in error


def test_a_broken_config_is_reported(tmp_path: Path):
    (folder(tmp_path, {}) / "config.json").write_text("{")
    [error] = wrong_model(tmp_path)
    assert "config.json cannot be read" in error


def test_the_types_read_from_source_are_those_of_transformers():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert causal_lm_types() == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_git_lfs_pointer_is_reported_with_a_fix(name: str, tmp_path: Path):
    folder(tmp_path, {"model_type": "llama"})
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 268\n")
    [error] = wrong_model(tmp_path)
    assert f"{name} is a git-LFS pointer" in error and f"cd {tmp_path} && git lfs pull" in error


@pytest.mark.parametrize("names_base", [True, False])
def test_an_adapter_is_refused_with_its_base_and_options(names_base: bool, tmp_path: Path):
    named = {"base_model_name_or_path": "org/base"} if names_base else {}
    (tmp_path / "adapter_config.json").write_text(json.dumps(named))
    (tmp_path / "adapter_model.safetensors").touch()
    [error] = wrong_model(tmp_path)
    assert f"is an adapter to {'org/base' if names_base else 'a model that it does not name'}, not a model" in error
    assert f"model.path={'org/base' if names_base else 'BASE'} " in error and "merge_and_unload" in error


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"model_type": "bert"}, "bert is an encoder: a token sees those after it"),
        ({"model_type": "xlm-roberta"}, "xlm-roberta is an encoder"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "bart is an encoder with a decoder"),
        ({"model_type": "llama9"}, "no causal language model that transformers 5"),
        ({}, "config.json names no model_type"),
        ([], "config.json names no model_type"),
    ],
    ids=str,
)
def test_a_model_that_is_not_a_decoder_is_refused(facts: Any, said: str, tmp_path: Path):
    [error] = wrong_model(folder(tmp_path, facts))
    assert said in error and ("Try: " in error or "Try: " in error)


def test_an_encoder_made_a_decoder_is_left_to_the_model_check(tmp_path: Path):
    assert list(wrong_model(folder(tmp_path, {"model_type": "bert", "is_decoder": True}))) == []


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "is an empty folder"),
        (["m-Q4_K_M.gguf"], "m-Q4_K_M.gguf is quantised for inference"),
        (["config.json", "m.gguf"], "m.gguf is quantised for inference"),
        (["config.json"], "and there are none"),
    ],
    ids=str,
)
def test_a_folder_without_weights_is_refused_with_its_files(files: list[str], said: str, tmp_path: Path):
    for name in files:
        (tmp_path / name).write_text('{"model_type": "llama"}')
    [error] = wrong_model(tmp_path)
    assert said in error


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path):
    (tmp_path / "model.safetensors").touch()
    model = {"path": str(tmp_path / "model.safetensors"), "tiny": False, "trust_remote_code": False}
    [error] = wrong_models(model, ())
    assert f"is a file, and a model is a folder with a config.json. Try: model.path={tmp_path}" in error


def test_one_expert_is_not_a_mixture():
    assert list(wrong_architecture({"model_type": "llama", "num_experts": 1})) == []
