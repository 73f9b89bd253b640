"""Loads a model from safetensors under a strategy and reports this process's peak: `python -m tests.load_memory`."""

import json
import resource
import sys
from pathlib import Path

import torch

from distft.losses.cross_entropy import CrossEntropy
from distft.models.safetensors_dir import SafetensorsDir
from distft.models.skeleton import architecture, blocks, skeleton
from distft.models.weights import fill
from distft.optim.groups import decay_groups
from distft.runtime.process_group import World, all_reduce_sum, process_group
from distft.strategies.objective import Objective
from tests.train_cases import instantiate_strategy


def load(strategy: str, folder: Path, world: World) -> None:
    config = architecture(folder, {})

    def build() -> Objective:
        model = skeleton(config, "sdpa")
        return Objective(model, CrossEntropy(), list(blocks(model).values()))

    engine = instantiate_strategy(strategy).setup(
        build, lambda parameters: torch.optim.SGD(decay_groups(parameters), lr=0.1), world, torch.float32
    )
    fill(engine.pieces(), SafetensorsDir(folder))
    engine.refresh()


def main() -> None:
    out, strategy, small, big = sys.argv[1:]
    with process_group() as world:
        load(strategy, Path(small), world)  # everything that is imported on the way
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        load(strategy, Path(big), world)
        grown = torch.zeros(world.size)
        grown[world.rank] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        grown = all_reduce_sum(grown)
        if world.is_first:
            Path(out).write_text(json.dumps(grown.tolist()))


if __name__ == "__main__":
    main()
