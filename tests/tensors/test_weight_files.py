"""Reasons against training a model that the headers of its files show are reported before anything is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from distft.tensors.weight_files import notes, weight_errors

BITSANDBYTES = {"quantization_config": {"quant_method": "bitsandbytes"}}


def stored(folder: Path, **tensors: torch.Tensor) -> Path:
    """Writes an embedding of 10 tokens and a layer, with other tensors instead or in addition."""
    plain = {"model.embed_tokens.weight": torch.ones(10, 4), "model.layers.0.q_proj.weight": torch.ones(4, 4)}
    save_file(plain | {name.replace("__", "."): each for name, each in tensors.items()}, folder / "model.safetensors")
    return folder


def wrong(folder: Path, facts: dict[str, Any], max_length: int = 8, tokens: int | None = None) -> str:
    [error] = weight_errors(folder, facts, max_length, tokens)
    assert error.startswith(f"model.path={folder}: ") and "Try: " in error
    return error


@pytest.mark.parametrize(
    ("tensors", "facts", "said"),
    [
        (
            {"model__layers__0__q_proj__weight": torch.ones(4, 4).to(torch.float8_e4m3fn)},
            {},
            "q_proj.weight is F8_E4M3",
        ),
        ({"model__layers__0__q_proj__weight": torch.ones(4, 4, dtype=torch.int8)}, BITSANDBYTES, "(bitsandbytes)"),
        ({"model__layers__0__q_proj__qweight": torch.ones(4, 4, dtype=torch.int32)}, {}, "q_proj.qweight is I32"),
        ({"model__layers__0__q_proj__weight_scale": torch.ones(1)}, {}, "q_proj.weight_scale is F32"),
    ],
    ids=["fp8", "int8", "gptq", "scales"],
)
def test_quantized_weights_are_refused(tensors: dict[str, Any], facts: dict[str, Any], said: str, tmp_path: Path):
    error = wrong(stored(tmp_path, **tensors), facts)
    assert "its weights are quantized" in error and said in error


def test_a_leftover_quantization_config_is_reported(tmp_path: Path):
    assert list(weight_errors(stored(tmp_path), BITSANDBYTES, 8, 10)) == []
    [line] = notes(tmp_path, BITSANDBYTES, 8)
    assert "bitsandbytes" in line and "quantization_config is ignored" in line


@pytest.mark.parametrize(("tokens", "fits"), [(9, True), (10, True), (11, False), (None, True)])
def test_a_token_without_an_embedding_is_refused(tokens: int | None, fits: bool, tmp_path: Path):
    folder = stored(tmp_path)
    if fits:
        assert list(weight_errors(folder, {}, 8, tokens)) == []
    else:
        assert "the tokenizer has 11 tokens, and the model embeddings for 10" in wrong(folder, {}, 8, tokens)


@pytest.mark.parametrize(("rows", "stated", "most"), [(6, None, 6), (8, 6, 6), (8, None, 8)])
def test_too_few_learned_positions_are_refused(rows: int, stated: int | None, most: int, tmp_path: Path):
    folder = stored(tmp_path, transformer__wpe__weight=torch.ones(rows, 4))
    facts = {"n_positions": stated} if stated else {}
    assert list(weight_errors(folder, facts, most, None)) == []
    assert f"it has {most} learnt positions (transformer.wpe.weight)" in wrong(folder, facts, most + 1)
    assert f"Try: data.max_length={most}" in wrong(folder, facts, most + 1)


def test_rows_over_the_rotary_context_get_a_warning(tmp_path: Path):
    assert list(notes(tmp_path, {"max_position_embeddings": 8}, 8)) == []
    [line] = notes(tmp_path, {"text_config": {"max_position_embeddings": 8}}, 9)
    assert "data.max_length=9 exceeds the 8 positions" in line


def test_a_shard_that_is_missing_is_named(tmp_path: Path):
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    save_file({"a": torch.ones(1)}, tmp_path / "model-1.safetensors")
    assert "model-2.safetensors is missing" in wrong(tmp_path, {})


def test_a_file_that_is_cut_off_is_named(tmp_path: Path):
    file = stored(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert "model.safetensors is cut off" in wrong(tmp_path, {})
