"""Planned bytes per process equal those of live engines.

Parameters are counted without torch exactly as torch counts them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from distft.config.parts import Optimizer, Strategy
from distft.paths import conf_dir
from distft.plan import memory
from distft.plan.memory import (
    FAMILIES,
    Parts,
    Sizes,
    count_adapters,
    count_parameters,
    gathered_bytes,
    memory_of,
    memory_table,
    optimizer_bytes,
    parts_of,
    shipped_strategy,
)
from distft.strategies import zero

STRATEGIES = sorted(path.stem for path in (conf_dir() / "strategy").glob("*.yaml"))
P = 1_000_000

# Bytes per parameter with AdamW on 2 processes, in fp32 and in bf16: summed over the live tensors of an engine with
# 7.3 million parameters while it held gradients, its communication bucket taken off (hsdp: as fsdp on one node).
MEASURED = {
    "ddp": (16, 16),
    "fsdp": (8, 8),
    "hsdp": (8, 8),
    "zero1": (14, 14),
    "zero2": (12, 10),
    "zero3": (10, 9),
    "zero3_offload": (12, 11),
}


def strategy(name: str) -> Strategy:
    return shipped_strategy(conf_dir() / "strategy" / f"{name}.yaml")


def optimizer_of(values: Mapping[str, Any]) -> Optimizer:
    return Optimizer.model_validate(values)


def count(name: str, *, world: int = 2, compute_bytes: int = 4, trained: int = P) -> dict[str, int]:
    sizes = Sizes(P, trained, state_bytes=8, compute_bytes=compute_bytes, world=world, node=2)
    counted = memory_of(strategy(name), sizes)
    assert counted is not None
    return counted


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_keeps_what_was_measured(name: str):
    assert (count(name)["total"] / P, count(name, compute_bytes=2)["total"] / P) == MEASURED[name]


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_parts_make_the_total(name: str):
    counted = count(name)
    assert counted["parameters"] + counted["gradients"] + counted["optimizer"] == counted["total"] >= counted["host"]


# The same of a frozen parameter: read from engines with 5 million of them and 3.7 million of adapters.
FROZEN = {
    "ddp": (4, 2),
    "fsdp": (2, 1),
    "hsdp": (2, 1),
    "zero1": (4, 2),
    "zero2": (4, 2),
    "zero3": (2, 1),
    "zero3_offload": (2, 1),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_frozen_parameters_have_weights_only(name: str):
    for compute_bytes, measured in zip((4, 2), FROZEN[name], strict=True):
        none, half, all_ = (count(name, compute_bytes=compute_bytes, trained=size) for size in (0, P // 2, P))
        assert none["total"] == none["parameters"] == measured * P
        assert 2 * half["total"] == none["total"] + all_["total"]


def test_sharding_divides_by_processes_hsdp_by_those_per_node():
    assert count("fsdp", world=8)["total"] == 16 * P // 8
    assert count("ddp", world=8)["total"] == 16 * P
    assert count("hsdp", world=8)["total"] == 16 * P // 2
    assert count("zero3", world=8)["total"] == 20 * P // 8
    assert count("zero1", world=4, compute_bytes=2)["total"] == 10 * P  # measured too, while sums were sent


def test_only_offload_uses_host_memory():
    assert {name for name in STRATEGIES if count(name)["host"]} == {"zero3_offload"}


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ({"_target_": "torch.optim.AdamW"}, 8),
        ({"_target_": "torch.optim.AdamW", "amsgrad": True}, 12),
        ({"_target_": "torch.optim.SGD", "momentum": 0.9}, 4),
        ({"_target_": "torch.optim.SGD", "momentum": 0}, 0),
        ({"_target_": "torch.optim.RMSprop", "momentum": 0.9, "centered": True}, 12),
        ({"_target_": "mylab.Optimizer"}, None),
    ],
)
def test_optimizer_state_is_what_torch_allocates(optimizer: dict[str, object], expected: int | None):
    assert optimizer_bytes(optimizer_of(optimizer)) == expected


@pytest.mark.parametrize("name", sorted(path.stem for path in (conf_dir() / "optimizer").glob("*.yaml")))
def test_planned_optimizer_state_is_that_after_a_step(name: str):
    import torch
    from hydra.utils import instantiate

    values = yaml.safe_load((conf_dir() / "optimizer" / f"{name}.yaml").read_text())
    weight = torch.nn.Parameter(torch.ones(64, 64))
    optimizer = instantiate(values)([weight])
    weight.grad = torch.ones(64, 64)
    optimizer.step()
    tensors = [value for value in optimizer.state[weight].values() if torch.is_tensor(value) and value.ndim]
    assert optimizer_bytes(optimizer_of(values)) == sum(tensor.nbytes for tensor in tensors) / weight.numel()


def test_the_table_has_every_strategy_as_configured():
    sizes = Sizes(P, P, state_bytes=8, compute_bytes=4, world=8, node=8)
    chosen = Strategy.model_validate({"layout": "hsdp", "shard_size": 4})
    table = memory_table("hsdp", chosen, conf_dir() / "strategy", sizes)
    assert sorted(table) == STRATEGIES
    assert table["hsdp"]["total"] == 16 * P // 4


LLAMA3_8B = Parts(8_030_261_248, 2 * 525_336_576 + 4096, 218_112_000, 525_336_576, tied=False)


def test_gathered_memory_of_an_8b_model_under_fsdp2():
    """The root's weights and gradients, 8 bytes a parameter outside of the blocks, and the block that stays."""
    outside, whole = 2 * 525_336_576 + 4096, 8_030_261_248
    sizes: dict[str, Any] = {"compute_bytes": 2, "adapters": None}
    assert gathered_bytes(LLAMA3_8B, is_sharded=True, **sizes) == 8 * outside + 2 * 218_112_000
    assert gathered_bytes(LLAMA3_8B, is_sharded=False, **sizes) == 2 * whole + 4 * 525_336_576
    frozen: dict[str, Any] = {"compute_bytes": 2, "adapters": 41_943_040}
    assert gathered_bytes(LLAMA3_8B, is_sharded=True, **frozen) == 4 * outside
    assert gathered_bytes(LLAMA3_8B, is_sharded=False, **frozen) == 2 * 41_943_040, "frozen weights have no copy"


def test_gathered_memory_is_counted_apart():
    for name in STRATEGIES:
        sizes = Sizes(P, P, state_bytes=8, compute_bytes=2, world=2, node=2, parts=LLAMA3_8B)
        counted = memory_of(strategy(name), sizes)
        assert counted is not None and counted["gathered"] > 0
        assert counted["total"] == count(name, compute_bytes=2)["total"]


def test_buckets_are_those_of_the_strategy():
    names = ("MIN_BUCKET", "MAX_BUCKET", "LIVE_BUCKETS")
    assert [getattr(memory, name) for name in names] == [getattr(zero, name) for name in names]


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


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("tiny", [True, False], ids=["tiny", "whole"])
def test_the_closed_form_counts_what_the_meta_model_has(model: str, tiny: bool):
    from distft.models.build import architecture, skeleton

    facts = facts_of(model, tiny=tiny)
    live = skeleton(architecture(None, facts), "eager")
    assert count_parameters(None, facts) == sum(parameter.numel() for parameter in live.parameters())


@pytest.mark.parametrize("model", KNOWN)
def test_models_have_their_published_sizes(model: str):
    assert count_parameters(None, facts_of(model, tiny=False)) == KNOWN[model]


@pytest.mark.parametrize("extra", [{"attention_bias": True, "mlp_bias": True}, {"tie_word_embeddings": True}])
def test_biases_and_tied_heads_of_other_llamas_are_counted(extra: dict[str, Any]):
    from distft.models.build import architecture, skeleton

    facts = facts_of("llama3_8b", tiny=True) | extra
    live = skeleton(architecture(None, facts), "eager")
    assert count_parameters(None, facts) == sum(parameter.numel() for parameter in live.parameters())


def test_sizes_exclude_stored_buffers_and_tied_heads(tmp_path: Path):
    weights = {"model.embed_tokens.weight": (4, 2), "lm_head.weight": (4, 2), "h.0.attn.bias": (1, 1, 8, 8), "b": (3,)}
    save_file({name: np.zeros(shape, np.float32) for name, shape in weights.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    assert count_parameters(tmp_path, {"model_type": "llama"}) == 4 * 2 + 3
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": False}))
    assert count_parameters(tmp_path, {"model_type": "llama"}) == 2 * 4 * 2 + 3


def test_an_unknown_family_is_not_guessed():
    assert count_parameters(None, {"model_type": "quantum"}) is None
    assert {facts_of(model, tiny=False)["model_type"] for model in MODELS} <= set(FAMILIES)


def test_a_damaged_file_is_reported(tmp_path: Path):
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


def test_an_unknown_adapter_layer_gets_a_suggestion():
    with pytest.raises(ValueError, match=r"tuning.target_modules: q_prj is not a linear layer.*Try: q_proj"):
        count_adapters(None, facts_of("llama3_8b", tiny=True), 4, ["q_prj"])
    assert count_adapters(None, {"model_type": "quantum"}, 4, ["q_prj"]) is None


@pytest.mark.parametrize("model", MODELS)
def test_parts_are_classified_as_in_the_meta_model(model: str, tmp_path: Path):
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
