"""Every optimizer that a config can name trains alike under any strategy, and its state moves between them."""

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distft.checkpoint.format import step_dir
from distft.checkpoint.load import Checkpoint
from distft.config.rules.update import ELEMENTWISE, OTHER_OPTIMIZERS
from distft.paths import conf_dir
from tests.support.ranks import run_ranks

pytestmark = pytest.mark.slow
WORDS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((conf_dir() / "optimizer").glob("*.yaml"))}
SHIPPED = {str(word["_target_"]).rpartition(".")[2] for word in WORDS.values()}
OPTIMIZERS = WORDS | {
    name: {"_target_": f"torch.optim.{name}", "_partial_": True, "lr": 1e-2, "weight_decay": 0.1}
    for name in ELEMENTWISE
    if name not in SHIPPED
}
NOT_WITH_ZERO = {"Adagrad"}  # a rule refuses it
STEPS = 3


def strategies_of(name: str) -> list[str]:
    """Returns the strategies of steps 1, 2 and 3, each of which continues from the previous one."""
    return ["fsdp", "fsdp" if name in NOT_WITH_ZERO else "zero2", "ddp"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("optimizers")


@pytest.fixture(scope="module")
def in_force(folder: Path) -> dict[str, dict[str, Any]]:
    """What is in force of each optimizer after all steps under ddp, and after one under each of three strategies."""
    jobs = []
    for name, settings in OPTIMIZERS.items():
        job = {"optimizer": settings, "save": f"{folder}/{name}", "resume": f"{folder}/{name}"}
        jobs.append(job | {"strategy": "ddp", "after": 0, "until": STEPS, "save": f"{folder}/{name}-whole"})
        for done, strategy in enumerate(strategies_of(name)):
            jobs.append(job | {"strategy": strategy, "after": done, "until": done + 1})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    answers = run_ranks(2, "tests.optim.cut_optimizers", f"{folder}/jobs.json")
    return dict(zip(OPTIMIZERS, answers[:: STEPS + 1], strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_trains_alike_under_every_strategy(name: str, in_force: Any, folder: Path) -> None:
    whole, cut = (Checkpoint(step_dir(folder / each, STEPS)) for each in (f"{name}-whole", name))
    assert whole.shapes == cut.shapes
    for (slot, parameter), shape in whole.shapes.items():
        mine, other = (each.read(parameter, shape, 0, prod(shape), slot) for each in (whole, cut))
        torch.testing.assert_close(
            mine, other, rtol=2e-5, atol=1e-7, msg=lambda text, of=(slot, parameter): f"{of}: {text}"
        )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_settings_in_force_are_those_requested(name: str, in_force: Any) -> None:
    asked = {key: value for key, value in OPTIMIZERS[name].items() if not key.startswith("_")}
    assert in_force[name] | asked == in_force[name]


def test_every_torch_optimizer_is_accepted_or_refused_by_name() -> None:
    kinds = {name for name, kind in vars(torch.optim).items() if isinstance(kind, type)}
    kinds = {name for name in kinds if issubclass(getattr(torch.optim, name), torch.optim.Optimizer)}
    assert kinds - {"Optimizer"} == {*ELEMENTWISE, *OTHER_OPTIMIZERS}
