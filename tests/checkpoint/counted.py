"""An engine with every number a function of the step, so that a checkpoint can be verified on its own."""

from collections.abc import Iterator
from math import prod

import torch

from distft.checkpoint.load import Checkpoint
from distft.runtime.process_group import World
from distft.strategies.engine import Piece
from distft.tensors.regions import Flat

NAMES = ("embedding", "head")
SLOTS = ("parameter", "exp_avg", "exp_avg_sq")


class Counted:
    """Two matrices and their moments, cut over the processes by rows; what the saver asks of an engine."""

    def __init__(self, world: World, rows: int, columns: int = 64) -> None:
        self.shape, start = (rows, columns), rows * world.rank // world.size
        stop = rows * (world.rank + 1) // world.size
        self.region = Flat(start * columns, (stop - start) * columns)
        self.weights = {name: torch.zeros(stop - start, columns, requires_grad=True) for name in NAMES}
        self.optimizer = torch.optim.AdamW(list(self.weights.values()))
        for weight in self.weights.values():
            moments = {slot: torch.zeros_like(weight) for slot in SLOTS[1:]}
            self.optimizer.state[weight] = {"step": torch.zeros(()), **moments}

    def become(self, step: int, attempt: int = 0) -> None:
        """Takes the state of `step`, as the run's `attempt` trains it."""
        for name, weight in self.weights.items():
            state = self.optimizer.state[weight]
            state["step"].fill_(step)
            for slot in SLOTS:
                tensor = weight.detach() if slot == "parameter" else state[slot]
                tensor.view(-1).copy_(numbers(slot, name, step, attempt, self.region))

    def pieces(self) -> Iterator[Piece]:
        for name, weight in self.weights.items():
            yield Piece(name, self.shape, self.region, weight)


def numbers(slot: str, name: str, step: int, attempt: int, region: Flat) -> torch.Tensor:
    """Returns elements of a tensor at a step, fp32 [count]: other ones for every argument, all exact."""
    which = NAMES.index(name) + 2 * SLOTS.index(slot) + 6 * (step + 1000 * attempt)
    index = torch.arange(region.start, region.start + region.count)
    return ((index * 7919 + which * 104_729) % 2**24).float()


def is_whole(checkpoint: Checkpoint) -> bool:
    """Whether every number is that of the step and the attempt in the manifest."""
    step, attempt = checkpoint.step, checkpoint.manifest["attempt"]
    right = set(checkpoint.shapes) == {(slot, name) for slot in (*SLOTS, "step") for name in NAMES}
    for (slot, name), shape in checkpoint.shapes.items():
        found = checkpoint.read(name, shape, 0, prod(shape), slot)
        wanted = torch.tensor([float(step)])
        if slot != "step":
            wanted = numbers(slot, name, step, attempt, Flat(0, prod(shape)))
        right = right and torch.equal(found, wanted)
    return right
