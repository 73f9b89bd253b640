"""Training on an accelerator, against the same on the CPU.

Everything runs twice: on the CPU, so that no line waits for a device to be tried, and on the accelerator where there
is one, which is skipped in one line where there is none. Not run on a device yet.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.ranks import run_ranks
from tests.support.rows import write_rows

pytestmark = pytest.mark.slow

MODEL, STRATEGIES = "llama3_8b", ("ddp", "fsdp", "zero2", "zero3")
PLACES = ["cpu", *["accelerator"] * torch.accelerator.is_available()]
# Each is a Python of its own: CUDA does not outlive a fork.
VARIABLES = {
    "cpu": {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""},
    "accelerator": {"PYTHONUNBUFFERED": "1"},
}
LOSS = 5e-6  # DESIGN 4.1, of loss and gradient norm on the CPU
OTHER_DEVICE = 2e-5  # sums in another order
BF16 = 2e-2


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows"), train=80)


@pytest.fixture(scope="module")
def answers(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was done on each device there is."""
    found = {}
    for name in PLACES:
        folder = str(tmp_path_factory.mktemp(name))
        found[name] = run_ranks(1, "tests.gpu.on_device", str(rows), folder, **VARIABLES[name])
    return found


@pytest.fixture(params=PLACES)
def done(request: pytest.FixtureRequest, answers: dict[str, Any]) -> dict[str, Any]:
    """What was done on one device."""
    return answers[request.param]


@pytest.fixture(scope="module")
def reference(rows: Path) -> list[list[float]]:
    from tests.support.reference import train_reference

    return train_reference(MODEL, rows)["steps"]


def test_the_available_device_is_used(answers: dict[str, Any]) -> None:
    if PLACES == ["cpu"]:
        pytest.skip("no accelerator: the tests of tests/gpu ran on the CPU alone")
    assert answers["accelerator"]["device"] != "cpu"


def apart(some: list[list[float]], others: list[list[float]]) -> float:
    assert len(some) == len(others) == 5
    pairs = [pair for one, other in zip(some, others, strict=True) for pair in zip(one, other, strict=True)]
    return max(abs(a - b) / abs(b) for a, b in pairs)


def limit(done: dict[str, Any]) -> float:
    return LOSS if done["device"] == "cpu" else OTHER_DEVICE


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_five_steps_are_those_of_a_plain_loop_in_fp64(strategy: str, done: dict[str, Any], reference: Any) -> None:
    assert apart(done["runs"][strategy]["steps"], reference) <= limit(done)


def test_strategies_agree_on_the_device(done: dict[str, Any]) -> None:
    for strategy in STRATEGIES:
        assert apart(done["runs"][strategy]["steps"], done["runs"]["ddp"]["steps"]) <= LOSS


@pytest.mark.parametrize("name", ["bf16", "zero2-bf16"])
def test_bf16_is_near_fp32_and_is_not_fp32(name: str, done: dict[str, Any]) -> None:
    distance = apart(done["runs"][name]["steps"], done["runs"]["ddp"]["steps"])
    assert 0 < distance <= BF16


def test_kernels_train_alike_compiled_or_not(done: dict[str, Any]) -> None:
    assert set(done["kernels"]) == {"sdpa", *(["varlen", "varlen-compiled"] if done["device"] == "cuda" else [])}
    for kernel, steps in done["kernels"].items():
        assert apart(steps, done["runs"]["bf16"]["steps"]) <= BF16, kernel


@pytest.mark.parametrize("name", ["recomputed", "selective"])
def test_activation_checkpointing_changes_no_number(name: str, done: dict[str, Any]) -> None:
    assert apart(done["runs"][name]["steps"], done["runs"]["ddp"]["steps"]) <= LOSS


def test_lora_learns_as_on_the_cpu(done: dict[str, Any], answers: dict[str, Any]) -> None:
    assert apart(done["runs"]["lora"]["steps"], answers["cpu"]["runs"]["lora"]["steps"]) <= OTHER_DEVICE
    assert apart(done["runs"]["lora"]["steps"], done["runs"]["ddp"]["steps"]) > OTHER_DEVICE


def test_held_out_metrics_are_those_of_the_cpu(done: dict[str, Any], answers: dict[str, Any]) -> None:
    for mine, other in zip(done["runs"]["evaluated"]["eval"], answers["cpu"]["runs"]["evaluated"]["eval"], strict=True):
        assert mine["target_tokens"] == other["target_tokens"]
        assert mine["loss"] == pytest.approx(other["loss"], rel=OTHER_DEVICE)


def test_a_save_in_the_background_holds_the_bits_of_its_step(done: dict[str, Any]) -> None:
    saved = done["saved"]
    assert saved["tensors"] == saved["changed"] and saved["differ"] == 0


def test_a_packed_document_is_bitwise_that_of_any_neighbours(done: dict[str, Any]) -> None:
    for kernel, found in done["isolation"].items():
        assert found["changed"] == [1], kernel
        assert found["from_alone"] <= (1e-5 if done["device"] == "cpu" else BF16), kernel


def test_the_clock_may_be_read_while_work_is_pending(done: dict[str, Any]) -> None:
    assert sum(done["clock"]) > 0


def test_a_steady_step_waits_for_the_device_at_most_once(done: dict[str, Any]) -> None:
    assert done["waits"] <= 1
