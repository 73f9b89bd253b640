"""The moving average of the weights: torch's own on every strategy, loaded bit-equal by any other, off in training."""

from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from distft.checkpoint.format import EMA, PARAMETER, step_dir
from distft.checkpoint.load import Checkpoint
from distft.checkpoint.weights import SavedWeights
from distft.train.ema import decay_at
from tests.support.rows import write_rows
from tests.support.trained import run_cases

pytestmark = pytest.mark.slow

STRATEGIES = ("ddp", "fsdp", "zero2", "zero3")
SAME = ("fsdp", "zero3")  # strategies that a run also continues on: PyTorch's sharding and DeepSpeed's
CUT, END = 2, 4
DECAY = 0.15  # below the warm-up of every step, so that torch's average, which has none, is the same

Answer = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ema")


@pytest.fixture(scope="module")
def ran(folder: Path) -> dict[str, Answer]:
    """Trains 4 steps on each strategy, and continues each after step 2 on the next strategy, some on their own."""
    write_rows(folder / "rows")
    firsts = {each: case(folder, each, each, save_each=str(folder / f"{each} steps")) for each in STRATEGIES}
    firsts["without"] = {key: value for key, value in case(folder, "without", "fsdp").items() if key != "ema"}
    found = run_cases(2, firsts, folder)
    moves = [*pairwise((*STRATEGIES, STRATEGIES[0])), *zip(SAME, SAME, strict=True)]
    return found | run_cases(2, {f"{a} to {b}": continued(folder, a, b) for a, b in moves}, folder)


def case(folder: Path, name: str, strategy: str, **more: Any) -> Answer:
    rows = str(folder / "rows")
    common = {"model": "qwen3_8b", "rows": rows, "micro": 2, "steps": END, "eval_micro": [[8, None]], "probe": False}
    return common | {"strategy": strategy, "ema": DECAY, "save": str(folder / name)} | more


def continued(folder: Path, before: str, after: str) -> Answer:
    """Returns the case that goes on after step CUT of a strategy's run on a strategy."""
    saved = step_dir(folder / f"{before} steps" / str(CUT), CUT)
    name, loaded = f"{before} to {after}", folder / f"{before}-{after}"
    return case(folder, name, after, resume=str(saved), reload=str(loaded))


def tensors(folder: Path, step: int, slot: str) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint(step_dir(folder, step))
    shapes = {name: shape for (kind, name), shape in checkpoint.shapes.items() if kind == slot}
    return {name: checkpoint.read(name, shape, 0, prod(shape), slot) for name, shape in shapes.items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value.view(torch.int32), second[name].view(torch.int32)) for name, value in first.items()
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_average_is_that_of_torch(strategy: str, ran: dict[str, Answer], folder: Path) -> None:
    steps = [tensors(folder / f"{strategy} steps" / str(step), step, PARAMETER) for step in range(1, END + 1)]
    averages, update = [value.clone() for value in steps[0].values()], get_ema_multi_avg_fn(DECAY)
    for weights in steps[1:]:
        update(averages, list(weights.values()), 0)
    found = tensors(folder / strategy, END, EMA)
    for name, average in zip(steps[0], averages, strict=True):
        torch.testing.assert_close(found[name], average, rtol=1e-6, atol=1e-8)
    assert not equal(found, tensors(folder / strategy, END, PARAMETER))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_any_strategy_loads_the_average_bit_equal(strategy: str, ran: dict[str, Answer], folder: Path) -> None:
    following = dict(pairwise((*STRATEGIES, STRATEGIES[0])))[strategy]
    for other in (following, strategy) if strategy in SAME else (following,):
        assert_continues(folder, strategy, other)


@pytest.mark.soak
@pytest.mark.parametrize("strategy", [each for each in STRATEGIES if each not in SAME])
def test_other_strategies_continue_their_own_average(strategy: str, ran: dict[str, Answer], folder: Path) -> None:
    run_cases(2, {strategy: continued(folder, strategy, strategy)}, folder)
    assert_continues(folder, strategy, strategy)


def assert_continues(folder: Path, strategy: str, other: str) -> None:
    saved = tensors(folder / f"{strategy} steps" / str(CUT), CUT, EMA)
    assert equal(saved, tensors(folder / f"{strategy}-{other}", CUT, EMA))
    there = tensors(folder / f"{strategy} to {other}", END, EMA)
    if other == strategy:
        assert equal(there, tensors(folder / strategy, END, EMA)), "a resumed run averages as an uninterrupted one"
    for name, value in tensors(folder / strategy, END, EMA).items():
        torch.testing.assert_close(there[name], value, rtol=0, atol=2e-5)


def test_averaging_changes_no_step(ran: dict[str, Answer], folder: Path) -> None:
    assert ran["fsdp"]["steps"] == ran["without"]["steps"]
    assert equal(tensors(folder / "fsdp", END, PARAMETER), tensors(folder / "without", END, PARAMETER))


def test_what_is_evaluated_is_the_average(ran: dict[str, Answer]) -> None:
    losses = {name: ran[name]["eval"][0]["loss"] for name in (*STRATEGIES, "without")}
    averaged = [losses[name] for name in STRATEGIES]
    assert max(averaged) - min(averaged) < 1e-5 and abs(losses["fsdp"] - losses["without"]) > 1e-4


def test_an_export_reads_the_average_or_the_mean_of_checkpoints(ran: dict[str, Answer], folder: Path) -> None:
    checkpoints = [Checkpoint(step_dir(folder / "zero3 steps" / str(step), step)) for step in (1, 3, 4)]
    name = max(checkpoints[0].names, key=lambda each: prod(checkpoints[0].shapes[PARAMETER, each]))
    shape = checkpoints[0].shapes[PARAMETER, name]
    whole = {step: tensors(folder / "zero3 steps" / str(step), step, PARAMETER)[name] for step in (1, 3, 4)}
    mean = SavedWeights(checkpoints)
    assert mean.is_mean and mean.folder.name == "step-00000004"
    expected = torch.stack(list(whole.values())).double().mean(0).float()
    torch.testing.assert_close(mean.read(name, shape, 0, prod(shape)), expected, rtol=1e-7, atol=0)
    assert torch.equal(mean.read(name, shape, 7, 5), mean.read(name, shape, 0, prod(shape))[7:12])
    one = SavedWeights(checkpoints[-1:], ema=True)
    assert torch.equal(one.read(name, shape, 0, prod(shape)), tensors(folder / "zero3", END, EMA)[name])


def test_the_decay_warms_up() -> None:
    assert decay_at(1, 0.999) == 2 / 11 and decay_at(90, 0.999) == 0.91 and decay_at(10**6, 0.999) == 0.999
