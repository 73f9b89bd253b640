"""A NaN/Inf loss or gradient on one rank changes no bit of any weight or moment, and all ranks skip the step.

A steady step does only useful work, counted live on 2 and 4 processes.
These numbers do not depend on the device: no padding, no untrained token in the projection, no collective that the
strategy does not need, one synchronization with the device.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.ranks import run_ranks
from tests.support.rows import write_rows
from tests.support.trained import STRATEGIES

BF16 = ("ddp", "zero2", "zero3", "zero3_offload")
KINDS = [("loss", "nan"), ("gradient", "inf")]


@pytest.fixture(scope="module")
def answers(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    base = {"model": "llama3_8b", "micro": 2, "rows": str(rows)}
    cases = [
        base | {"strategy": strategy, "what": what, "number": number, "rank": i % 2}
        for strategy in STRATEGIES
        for i, (what, number) in enumerate(KINDS)
    ]
    cases += [base | {"strategy": "fsdp", "what": "loss", "number": number, "rank": 1} for number in ("inf", "-inf")]
    cases += [
        base | {"strategy": strategy, "precision": "bfloat16", "what": "gradient", "number": "nan", "rank": 1}
        for strategy in BF16
    ]
    cases += [
        base
        | {"strategy": strategy, "precision": precision, "what": "gradient", "number": "nan", "rank": 1}
        | {"settings": {"offload": True}}
        for strategy in ("zero1", "zero2")
        for precision in ("float32", "bfloat16")
    ]
    for case in cases:
        if case["strategy"] == "hsdp":
            case["settings"] = {"shard_size": 2}
    spec = tmp_path_factory.mktemp("spoilt") / "cases.json"
    spec.write_text(json.dumps(cases))
    return run_ranks(2, "tests.train.spoilt", str(spec))


@pytest.mark.slow
def test_all_ranks_skip_the_step(answers: list[dict[str, Any]]):
    for answer in answers:
        for rank in answer["ranks"]:
            assert rank["spoilt"]["skipped"] == [False, True, False], answer["case"]
            assert rank["spoilt"]["norms"][1] in ("nan", "inf"), answer["case"]


@pytest.mark.slow
def test_a_skipped_step_changes_no_bit(answers):
    for answer in answers:
        for rank in answer["ranks"]:
            first, spoilt, last = rank["spoilt"]["states"]
            assert first == spoilt, answer["case"]
            assert last == rank["twin"]["states"][-1], answer["case"]
            assert first != last


FSDP = ("ddp", "fsdp", "hsdp")
ZERO = ("zero1", "zero2", "zero3", "zero1+offload", "zero2+offload", "zero3_offload")
# What a step is to communicate depends on no world: on 4 processes one of each way to shard, the others are soak.
ON_FOUR = ("fsdp", "hsdp", "zero2", "zero3")
CASES = [(2, name) for name in (*FSDP, *ZERO) if name != "hsdp"] + [(4, name) for name in ON_FOUR]
MORE_ON_FOUR = [name for name in (*FSDP, *ZERO) if name not in ON_FOUR]
IN_BF16 = [(2, f"{name}+bfloat16") for world, name in CASES if world == 2]
LOSS_BYTES = 64  # the step's own collective


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], dict[str, Any]]:
    return count([*CASES, *IN_BF16], tmp_path_factory.mktemp("rows"))


def count(cases: list[tuple[int, str]], folder: Path) -> dict[tuple[int, str], dict[str, Any]]:
    rows, found = write_rows(folder, train=200), {}
    for world in sorted({size for size, _ in cases}):
        names = [name for size, name in cases if size == world]
        found |= {
            (world, name): each for name, each in run_ranks(world, "tests.train.counted", str(rows), *names).items()
        }
    return found


def needed(world: int, name: str, one: dict[str, Any]) -> dict[str, float]:
    """Returns the bytes that each collective has to be given: gradients in fp32, weights in the dtype of computing.

    Blocks are gathered for the forward and, all but the last, again for the backward; what is outside of them once a
    step. ZeRO-3 gathers the whole model for each micro-batch, and keeps so small a one between forward and backward.
    """
    strategy, *options = name.replace("_", "+").split("+")
    gradients, times = 4 * one["parameters"], one["micro_batches"]
    parts = ("parameters", "in_blocks", "in_last_block")
    weights, blocks, last = ((2 if "bfloat16" in options else 4) * one[part] for part in parts)
    gathered = weights - blocks + times * (2 * blocks - last)
    return {
        "ddp": {"allreduce_": gradients},
        "fsdp": {"_allgather_base_": gathered, "_reduce_scatter_base_": times * gradients},
        "hsdp": {
            "_allgather_base_": gathered,
            "_reduce_scatter_base_": times * gradients,
            "allreduce_": gradients / 2,
        },
        "zero1": {"reduce_": gradients, "_allgather_base_": weights},
        "zero2": {"reduce_": times * gradients, "_allgather_base_": weights},
        "zero3": {"_allgather_base_": times * weights, "_reduce_scatter_base_": times * gradients},
    }[strategy]


@pytest.mark.slow
@pytest.mark.parametrize(("world", "name"), [*CASES, *IN_BF16])
def test_only_the_needed_bytes_are_communicated(world: int, name: str, counted: Any) -> None:
    assert_needed(world, name, counted[world, name])


def assert_needed(world: int, name: str, one: dict[str, Any]) -> None:
    bound = needed(world, name, one)
    assert set(one["bytes"]) <= {*bound, "allreduce_"}
    for collective, size in one["bytes"].items():
        assert size <= 1.01 * bound.get(collective, 0) + LOSS_BYTES, collective


@pytest.mark.slow
@pytest.mark.parametrize(("world", "name"), CASES)
def test_a_step_has_no_useless_operation(world: int, name: str, counted: Any) -> None:
    assert counted[world, name]["linear_executed"] == counted[world, name]["linear_useful"]


@pytest.mark.slow
@pytest.mark.parametrize(("world", "name"), [*CASES, *IN_BF16])
def test_a_step_synchronizes_with_the_device_once(world: int, name: str, counted: Any) -> None:
    """By the step's own tolist(), which this count does not see."""
    one = counted[world, name]
    assert one["asks"] == {}, "a tensor was synchronized with the host"
    assert one["uploads"] == {}, "a tensor was sent to the device while the host waited"
    assert one["synchronised"] == {}, "DeepSpeed waited for the device"


@pytest.mark.slow
@pytest.mark.parametrize(("world", "name"), CASES)
def test_an_evaluation_synchronizes_with_the_device_once(world: int, name: str, counted: Any) -> None:
    """By its own tolist(), however many batches it has."""
    assert counted[world, name]["evaluation"] == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for world, name in [*CASES, *IN_BF16] if world == 2 and "zero3" in name])
def test_deepspeed_synchronizes_once_more_for_its_norm(name: str, counted: Any) -> None:
    """Stage 3 makes a tensor of the number that it is given, on the host whatever the device, and asks that one."""
    assert counted[2, name]["asks_of_own"] == {"_local_scalar_dense": 1}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bytes_each"), [("fsdp", 16), ("zero3", 20)])
def test_memory_between_steps_is_one_shard(name: str, bytes_each: int, counted: Any) -> None:
    """Of weights, gradients and moments; fsdp has dropped its gradients by then, zero3 keeps a buffer for them."""
    one = counted[4, name]
    assert one["at_rest"] <= 1.05 * bytes_each * one["parameters"] / 4
    assert one["at_rest"] >= (bytes_each - 4) * one["parameters"] / 4


@pytest.mark.slow
def test_unsharded_weights_are_cast_once_per_step(counted: Any) -> None:
    """However many micro-batches it has: of 8 billion each cast takes 19 ms at 4 TB/s, by count."""
    one = counted[2, "ddp+bfloat16"]
    assert one["micro_batches"] > 1 and one["cast"] == one["parameters"]


@pytest.mark.soak
def test_every_other_strategy_does_no_more_on_four_processes(tmp_path: Path) -> None:
    found = count([(4, name) for name in MORE_ON_FOUR], tmp_path)
    for (world, name), one in found.items():
        assert_needed(world, name, one)
        assert one["linear_executed"] == one["linear_useful"]
        assert one["asks"] == one["uploads"] == one["synchronised"] == one["evaluation"] == {}, name
