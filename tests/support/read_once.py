"""Loads models and resumes checkpoints on eight ranks, one after another.

`python -m tests.support.read_once MODELS CHECKPOINTS`. Each strategy loads MODELS/<strategy>. It then resumes what was
saved under fsdp from its own copy, CHECKPOINTS/<strategy>, so that each load reads its own files.
"""

import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from distft.checkpoint.load import find, restore
from distft.checkpoint.retention import Retention
from distft.checkpoint.save import Saver
from distft.losses.cross_entropy import CrossEntropy
from distft.models.build import architecture, blocks, skeleton
from distft.optim.groups import decay_groups
from distft.runtime.process_group import World
from distft.strategies.engine import Objective
from distft.tensors.streaming import folder_chunks, stream
from tests.support import preload  # noqa: F401  # before the fork
from tests.support.forked import fork_ranks
from tests.support.train_cases import instantiate_strategy

WORLD = 8


def make_engine(strategy: str, model_dir: Path, world: World) -> Any:
    config = architecture(model_dir, {})

    def build() -> Objective:
        model = skeleton(config, "sdpa")
        return Objective(model, CrossEntropy(), list(blocks(model).values()))

    return instantiate_strategy(strategy).setup(
        build, lambda parameters: torch.optim.AdamW(decay_groups(parameters), lr=1e-3), world, torch.float32
    )


def load_all(models: Path, checkpoints: Path, world: World) -> None:
    for model_dir in sorted(models.iterdir()):
        engine = make_engine(model_dir.name, model_dir, world)
        stream(folder_chunks(model_dir, world), list(engine.pieces()), world)
        if model_dir.name == "fsdp":
            for piece in engine.pieces():
                piece.owner.grad = torch.ones_like(piece.owner)
            engine.optimizer.step()
            Saver(checkpoints / "saved", Retention(1), world).start(engine, 1, {})
    for model_dir in sorted(models.iterdir()):
        if world.is_first:
            shutil.copytree(checkpoints / "saved", checkpoints / model_dir.name, symlinks=True)
        dist.barrier()
        engine = make_engine(model_dir.name, model_dir, world)
        assert find(checkpoints / model_dir.name, "auto", world, partial(restore, engine))


if __name__ == "__main__":
    fork_ranks(WORLD, partial(load_all, Path(sys.argv[1]), Path(sys.argv[2])))
