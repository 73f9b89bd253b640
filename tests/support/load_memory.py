"""Loads a model from safetensors under a strategy and reports the peak: `python -m tests.support.load_memory`."""

import ctypes
import gc
import json
import sys
from pathlib import Path

import torch

from distft.losses.cross_entropy import CrossEntropy
from distft.models.build import architecture, blocks, skeleton
from distft.optim.groups import decay_groups
from distft.runtime.process_group import World, all_reduce_sum, process_group
from distft.strategies.engine import Objective
from distft.tensors.streaming import folder_chunks, stream
from tests.support.train_cases import instantiate_strategy


def load(strategy: str, folder: Path, world: World) -> None:
    config = architecture(folder, {})

    def build() -> Objective:
        model = skeleton(config, "sdpa")
        return Objective(model, CrossEntropy(), list(blocks(model).values()))

    engine = instantiate_strategy(strategy).setup(
        build, lambda parameters: torch.optim.SGD(decay_groups(parameters), lr=0.1), world, torch.float32
    )
    stream(folder_chunks(folder, world), list(engine.pieces()), world)
    engine.refresh()


def peak_bytes() -> int:
    """Returns the highest resident size since the last `forget_peak`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


_M_MMAP_THRESHOLD = -3


def main() -> None:
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 65536)  # what is freed leaves the process: resident is in use
    out, small, big, *strategies = sys.argv[1:]
    found = {}
    with process_group() as world:
        for strategy in strategies:
            load(strategy, Path(small), world)  # everything that is imported on the way
            forget_peak()
            before = peak_bytes()
            load(strategy, Path(big), world)
            grown = torch.zeros(world.size)
            grown[world.rank] = peak_bytes() - before
            found[strategy] = all_reduce_sum(grown).tolist()
        if world.is_first:
            Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
