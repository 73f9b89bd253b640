"""EMA: an exponential moving average of the weights, which is evaluated and exported in place of the last weights.

    ema <- decay(step) * ema + (1 - decay(step)) * weights        after each update
    decay(step) = min(train.ema_decay, (1 + step) / (10 + step))  so that the first weights do not dominate a short run

The average starts as the weights after the first update. The warm-up of the decay is that of diffusers' EMAModel.

It is kept as a further state of the optimizer, under the name `ema`: laid out like the weights, so sharded by every
strategy, saved in every checkpoint, and loaded by any strategy at any world size.

Trap: torch's optimizers create their state for a parameter whose state is empty. So the average of a parameter is
created after its first update, never before; a parameter that no update has reached is its own average.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.distributed.tensor import DTensor

from distft.checkpoint.format import EMA
from distft.checkpoint.load import Checkpoint
from distft.strategies.engine import Engine


def decay_at(step: int, decay: float) -> float:
    """Returns the decay of an update. step: from 1."""
    return min(decay, (1 + step) / (10 + step))


class Ema:
    """The moving average of an engine's trained weights."""

    def __init__(self, engine: Engine, decay: float) -> None:
        self.engine, self.decay = engine, decay
        owners = {id(piece.owner): piece.owner for piece in engine.pieces() if not piece.frozen}
        self.owners = list(owners.values())
        self.is_stateless = False  # an optimizer without any state, such as SGD without momentum

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Averages the weights after the update of `step`; must not be called when the update was skipped."""
        states = self.engine.optimizer.state
        self.is_stateless = not any(states.get(owner) for owner in self.owners) or self.is_stateless
        weight = 1 - decay_at(step, self.decay)
        for owner in self.owners:
            state = states.get(owner) or {}
            if EMA in state:
                _local(state[EMA]).lerp_(_local(owner), weight)
            elif state or self.is_stateless:
                states[owner][EMA] = owner.detach().clone()


@contextmanager
def in_force(engine: Engine, is_average: bool = True) -> Iterator[None]:
    """Exchanges weights and averages within the block, if `is_average`; every process enters it together."""
    if not is_average:
        yield
        return
    swap(engine)
    try:
        yield
    finally:
        swap(engine)


@torch.no_grad()
def swap(engine: Engine) -> None:
    """Exchanges the trained weights and their averages, in place; bit-exact when done twice.

    A weight without an average stays as it is.
    """
    owners = {id(piece.owner): piece.owner for piece in engine.pieces() if not piece.frozen}
    for owner in owners.values():
        average = engine.optimizer.state.get(owner, {}).get(EMA)
        if average is not None:
            mine, other = _local(owner), _local(average)
            held = mine.clone()
            mine.copy_(other)
            other.copy_(held)
    engine.refresh()


@torch.no_grad()
def settle(engine: Engine, checkpoint: Checkpoint | None, is_kept: bool) -> None:
    """Makes the loaded averages those of this run: without `is_kept` they are removed; parameters that the checkpoint
    has no average of start with their weights, since a flat partition has averages of all its parameters or of none."""
    if not is_kept:
        for state in engine.optimizer.state.values():
            state.pop(EMA, None)
        return
    for piece in engine.pieces():
        average = engine.optimizer.state.get(piece.owner, {}).get(EMA)
        if average is not None and checkpoint and (EMA, piece.name) not in checkpoint.shapes:
            piece.of(average).copy_(piece.data())


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
