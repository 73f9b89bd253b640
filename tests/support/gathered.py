"""Measures the peak bytes of a step on a live engine: `python -m tests.support.gathered OUT CASES.json`, on each rank.

The model is random, narrow and shallow with a real vocabulary of 49,152, so gathered weights exceed the activations.
"""

import json
import sys
import weakref
from collections.abc import Iterator
from functools import partial
from operator import call
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distft import worker
from distft.data.batches import Batch, make_batch
from distft.data.shards import Row
from distft.models.quantization import four_bit_weights
from distft.runtime.process_group import World, process_group, texts_of_all
from distft.train.state import load
from tests.support.train_cases import config_of, make_engine, plan_of

ROWS, MICRO_BATCHES = 2, 3  # the second finds gradients, and leaves the root's weights gathered
COLLECTIVES = ("reduce_scatter_single", "reduce_scatter_tensor")  # what FSDP2 of torch 2.13 calls, and of 2.11


class Held(TorchDispatchMode):
    """Tracks live storages. `peak`: the most bytes so far, measured after every operation.

    FSDP2 frees and fills storages by resizing them, so they are measured each time. gloo's copy of its input is not
    counted, because NCCL has none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}
        self._is_inside = False  # of a collective

    def __enter__(self) -> "Held":
        self._collectives = {name: getattr(dist, name) for name in COLLECTIVES if hasattr(dist, name)}
        for name, collective in self._collectives.items():
            setattr(dist, name, partial(self._unseen, collective))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for name, collective in self._collectives.items():
            setattr(dist, name, collective)

    def _unseen(self, collective: Any, *args: Any, **kwargs: Any) -> Any:
        self._is_inside = True
        try:
            return collective(*args, **kwargs)
        finally:
            self._is_inside = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._is_inside:
            return result
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, torch.Tensor):
                self.see(leaf)
        self.peak = max(self.peak, self.now())
        return result

    def see(self, tensor: torch.Tensor) -> None:
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if local.device.type != "meta":
            storage = local.untyped_storage()
            self._seen[storage._cdata] = weakref.ref(storage)

    def now(self) -> int:
        alive = [storage for storage in map(call, self._seen.values()) if storage is not None]
        if len(self._seen) > 2 * len(alive):
            self._seen = {key: each for key, each in self._seen.items() if each() is not None}
        return sum(map(torch.UntypedStorage.nbytes, alive))


def state_of(engine: Any) -> Iterator[torch.Tensor]:
    """Yields weights and optimizer state; gradients exist only within a step."""
    yield from engine.objective.parameters()
    for weight in four_bit_weights(engine.objective.model):
        yield from weight.tensors()
    for state in engine.optimizer.state.values():
        yield from (value for value in state.values() if torch.is_tensor(value) and value.ndim)


def batch(seed: int, length: int) -> Batch:
    random = np.random.default_rng(seed)
    rows = [Row(random.integers(0, 256, length).astype(np.int32), np.ones(length, bool)) for _ in range(ROWS)]
    return make_batch(rows)


def step(engine: Any, seed: int, length: int) -> None:
    for i in range(MICRO_BATCHES):
        value, _ = engine.forward(batch(seed + i, length))
        engine.backward(value, scale=1.0, last=i == MICRO_BATCHES - 1)
    engine.update(1.0, None)


def measured(case: dict[str, Any], world: World) -> dict[str, int]:
    """Returns the peak bytes of the second step, and how many of them live as long as the run.

    case: with `length`, tokens of a row; 4 where it is not said.
    """
    length = case.get("length", 4)
    engine = make_engine(case, world)
    load(engine, worker.make_skeleton(config_of(case), plan_of(case)), Path("none"), "never", 0, None, world)
    engine.train(True)
    step(engine, 0, length)
    held = Held()
    for tensor in state_of(engine):
        held.see(tensor)
    state = held.now()
    with held:
        step(engine, 10, length)
    return {"state": state, "peak": held.peak}


def main() -> None:
    out, cases = sys.argv[1:]
    torch.set_num_threads(1)
    with process_group() as world:
        mine = [measured(case, world) for case in json.loads(Path(cases).read_text())]
        texts = texts_of_all(json.dumps(mine), world)
        if world.is_first:
            Path(out).write_text(json.dumps([json.loads(text) for text in texts]))


if __name__ == "__main__":
    main()
