"""Steps of an optimizer under one strategy after another: `python -m tests.optim.cut_optimizers OUT JOBS.json`.

The model is four small tensors, so that the time is the optimizer's and its state's.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import nn

from distft.checkpoint.format import step_dir
from distft.checkpoint.load import Checkpoint, restore
from distft.optim.groups import check_in_force, decay_groups, set_learning_rate
from distft.runtime.determinism import seed_for
from distft.runtime.process_group import World, process_group
from distft.strategies.engine import Objective
from distft.tensors.streaming import fill
from tests.support.train_cases import instantiate_strategy, save


class Drawn:
    """Weights by their names alone."""

    def read(self, name: str, shape: tuple[int, ...], start: int, count: int) -> torch.Tensor:
        random = torch.Generator().manual_seed(seed_for(0, name))
        return torch.randn(shape, generator=random).view(-1)[start : start + count]


def loss_of(model: nn.Module, step: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Returns a loss that is the same on every process, so that its gradient is the same however it is cut."""
    inputs = torch.linspace(-1, 1, 5 * 3).view(5, 3) * step
    return model(inputs).square().mean(), {}


def build() -> Objective:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 5))
    return Objective(model, loss_of, [model[0]])


def run_job(job: dict[str, Any], world: World) -> dict[str, Any]:
    """Takes steps `after` + 1 to `until`, from a checkpoint or the start, and saves; returns what is in force."""
    make = instantiate(job["optimizer"], _convert_="all")
    strategy = instantiate_strategy(job["strategy"])
    engine = strategy.setup(build, lambda parameters: make(decay_groups(parameters)), world, torch.float32)
    if job["after"]:
        restore(engine, Checkpoint(step_dir(Path(job["resume"]), job["after"]), world), world)
    else:
        fill(engine.pieces(), Drawn())
        engine.refresh()
    engine.train(True)
    for step in range(job["after"] + 1, job["until"] + 1):
        set_learning_rate(engine.optimizer, 1 / step)
        value, _ = engine.forward(step, loss_of)
        engine.backward(value, 1.0, last=True)
        engine.update(engine.squared_norm().item() ** 0.5, None)
    save(engine, Path(job["save"]), job["until"], world)
    return check_in_force(engine.optimizer, job["optimizer"])


def main() -> None:
    out, jobs = sys.argv[1:]
    torch.set_num_threads(1)
    with process_group() as world:
        answers = [run_job(job, world) for job in json.loads(Path(jobs).read_text())]
        if world.is_first:
            Path(out).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
