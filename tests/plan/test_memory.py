"""Bytes per process are those that were read from live engines."""

from typing import Any

import pytest
import yaml

from distft.paths import conf_dir
from distft.plan.memory import Parts, gathered_bytes, memory_of, memory_table, optimizer_bytes

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


def strategy(name: str) -> dict[str, object]:
    return yaml.safe_load((conf_dir() / "strategy" / f"{name}.yaml").read_text())


def count(name: str, *, world: int = 2, compute_bytes: int = 4, trained: int = P) -> dict[str, int]:
    sizes: dict[str, Any] = {"parameters": P, "trained": trained, "state_bytes": 8}
    counted = memory_of(strategy(name), **sizes, compute_bytes=compute_bytes, world=world, node=2)
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
def test_what_is_frozen_has_weights_alone(name: str):
    for compute_bytes, measured in zip((4, 2), FROZEN[name], strict=True):
        none, half, all_ = (count(name, compute_bytes=compute_bytes, trained=size) for size in (0, P // 2, P))
        assert none["total"] == none["parameters"] == measured * P
        assert 2 * half["total"] == none["total"] + all_["total"]


def test_sharding_divides_by_processes_and_hsdp_by_those_of_a_node():
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
def test_optimizer_state_is_what_torch_makes(optimizer: dict[str, object], expected: int | None):
    assert optimizer_bytes(optimizer) == expected


@pytest.mark.parametrize("name", sorted(path.stem for path in (conf_dir() / "optimizer").glob("*.yaml")))
def test_every_shipped_optimizer_has_the_state_that_it_shows_after_a_step(name: str):
    import torch
    from hydra.utils import instantiate

    values = yaml.safe_load((conf_dir() / "optimizer" / f"{name}.yaml").read_text())
    weight = torch.nn.Parameter(torch.ones(64, 64))
    optimizer = instantiate(values)([weight])
    weight.grad = torch.ones(64, 64)
    optimizer.step()
    tensors = [value for value in optimizer.state[weight].values() if torch.is_tensor(value) and value.ndim]
    assert optimizer_bytes(values) == sum(tensor.nbytes for tensor in tensors) / weight.numel()


def test_the_table_has_every_strategy_and_the_chosen_one_as_configured():
    sizes = {"parameters": P, "trained": P, "state_bytes": 8, "compute_bytes": 4, "world": 8, "node": 8}
    table = memory_table("hsdp", strategy("hsdp") | {"shard_size": 4}, conf_dir() / "strategy", **sizes)
    assert sorted(table) == STRATEGIES
    assert table["hsdp"]["total"] == 16 * P // 4


LLAMA3_8B = Parts(8_030_261_248, 2 * 525_336_576 + 4096, 218_112_000, 525_336_576, tied=False)


def test_what_fsdp2_gathers_of_an_8b_model():
    """The root's weights and gradients, 8 bytes a parameter outside of the blocks, and the block that stays."""
    outside, whole = 2 * 525_336_576 + 4096, 8_030_261_248
    sizes: dict[str, Any] = {"compute_bytes": 2, "adapters": None}
    assert gathered_bytes(LLAMA3_8B, is_sharded=True, **sizes) == 8 * outside + 2 * 218_112_000
    assert gathered_bytes(LLAMA3_8B, is_sharded=False, **sizes) == 2 * whole + 4 * 525_336_576
    frozen: dict[str, Any] = {"compute_bytes": 2, "adapters": 41_943_040}
    assert gathered_bytes(LLAMA3_8B, is_sharded=True, **frozen) == 4 * outside
    assert gathered_bytes(LLAMA3_8B, is_sharded=False, **frozen) == 2 * 41_943_040, "frozen weights have no copy"


def test_gathered_is_counted_for_fsdp2_alone_and_on_top_of_the_total():
    for name in STRATEGIES:
        sizes: dict[str, Any] = {"parameters": P, "trained": P, "state_bytes": 8, "compute_bytes": 2}
        counted = memory_of(strategy(name), **sizes, world=2, node=2, parts=LLAMA3_8B)
        assert counted is not None and ("gathered" in counted) == (name in ("ddp", "fsdp", "hsdp"))
        assert counted["total"] == count(name, compute_bytes=2)["total"]
