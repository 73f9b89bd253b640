"""What a steady step does beside its useful work, counted live on 2 and 4 processes: nothing.

These numbers do not depend on the device: no padding, no token projected that is not trained, no collective that the
strategy does not need, one wait of the host for the device.
"""

from typing import Any

import pytest

from tests.ranks import run_ranks
from tests.rows import write_rows

pytestmark = pytest.mark.slow

FSDP = ("ddp", "fsdp", "hsdp")
ZERO = ("zero1", "zero2", "zero3")
CASES = [(2, name) for name in (*FSDP, *ZERO) if name != "hsdp"] + [(4, name) for name in (*FSDP, *ZERO)]
IN_BF16 = [(2, f"{name}+bfloat16") for _, name in CASES[:5]]
LOSS_BYTES = 64  # the step's own collective, and the norm's


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], dict[str, Any]]:
    rows = write_rows(tmp_path_factory.mktemp("rows"), train=200)
    found = {}
    for world in (2, 4):
        names = [name for size, name in [*CASES, *IN_BF16] if size == world]
        found |= {
            (world, name): each for name, each in run_ranks(world, "tests.train.counted", str(rows), *names).items()
        }
    return found


def needed(world: int, name: str, one: dict[str, Any]) -> dict[str, float]:
    """Returns the bytes that each collective has to be given, in fp32.

    Shards are gathered for the forward and, in blocks, again for the backward; ZeRO-3 keeps so small a model between.
    """
    whole, blocks, times = 4 * one["parameters"], 4 * one["in_blocks"], one["micro_batches"]
    return {
        "ddp": {"allreduce_": whole},
        "fsdp": {"_allgather_base_": times * (whole + blocks), "_reduce_scatter_base_": times * whole},
        "hsdp": {
            "_allgather_base_": times * (whole + blocks),
            "_reduce_scatter_base_": times * whole,
            "allreduce_": whole / 2,
        },
        "zero1": {"reduce_": whole, "_allgather_base_": whole},
        "zero2": {"reduce_": times * whole, "_allgather_base_": whole},
        "zero3": {"_allgather_base_": times * whole, "_reduce_scatter_base_": times * whole},
    }[name]


@pytest.mark.parametrize(("world", "name"), CASES)
def test_no_more_is_sent_than_the_strategy_needs(world: int, name: str, counted: Any) -> None:
    one = counted[world, name]
    bound = needed(world, name, one)
    assert set(one["bytes"]) <= {*bound, "allreduce_"}
    for collective, size in one["bytes"].items():
        assert size <= 1.01 * bound.get(collective, 0) + LOSS_BYTES, collective


@pytest.mark.parametrize(("world", "name"), CASES)
def test_no_operation_is_done_that_is_of_no_use(world: int, name: str, counted: Any) -> None:
    assert counted[world, name]["linear_executed"] == counted[world, name]["linear_useful"]


@pytest.mark.parametrize(("world", "name"), [*CASES, *IN_BF16])
def test_the_host_waits_for_the_device_once(world: int, name: str, counted: Any) -> None:
    """By the step's own tolist(), which this count does not see. DeepSpeed's norm, where it insists on it, asks too."""
    asked = sum(counted[world, name]["asks"].values())
    assert asked == {"zero3": 1, "zero3+bfloat16": 1, "zero1+bfloat16": 2}.get(name, 0)


@pytest.mark.parametrize(("name", "bytes_each"), [("fsdp", 16), ("zero3", 20)])
def test_what_is_kept_between_steps_is_a_share(name: str, bytes_each: int, counted: Any) -> None:
    """Of weights, gradients and moments; fsdp has dropped its gradients by then, zero3 keeps a buffer for them."""
    one = counted[4, name]
    assert one["at_rest"] <= 1.05 * bytes_each * one["parameters"] / 4
    assert one["at_rest"] >= (bytes_each - 4) * one["parameters"] / 4
