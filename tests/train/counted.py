"""Counts what a steady step does, on real processes: `python -m tests.train.counted OUT ROWS STRATEGY[+OPTION]...`.

OPTION is offload or bfloat16. What makes a host wait for its device: asks for values of tensors, tensors made of the
host's numbers on the device, and DeepSpeed's own calls to synchronise. Bytes in collectives, operations of matrix
products, and bytes at rest. A tensor made of nothing but numbers of the host is the host's own, and no wait.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, mm_flop
from torch.utils.weak import WeakIdKeyDictionary

from distft.data.order import Order, row_borders
from distft.data.shards import Rows
from distft.evaluate.held_out import held_out
from distft.models.build import blocks
from distft.models.flops import Flops
from distft.models.init import FreshWeights
from distft.runtime.process_group import World, all_reduce_sum, process_group
from distft.tensors.streaming import fill
from distft.train.feed import Feed, all_rows, make_cut
from distft.train.step import StepHooks, train_step
from tests.support.train_cases import make_engine, tiny_model

MODEL = "llama3_8b"
ASKS = ("_local_scalar_dense", "nonzero", "is_nonzero", "_to_cpu")
ROWS_A_STEP = 16


def _mm(left: Any, right: Any, *_: Any, **__: Any) -> int:
    return mm_flop(left, right)


def _addmm(own: Any, left: Any, right: Any, *_: Any, **__: Any) -> int:
    return mm_flop(left, right)


IN_PLACE = {torch.ops.aten.mm: _mm, torch.ops.aten.addmm_: _addmm}  # torch counts those that return a new tensor


class Watch(TorchDispatchMode):
    """Counts asks for values, and bytes that collectives of more than one process are given."""

    def __init__(self, weights: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.asks: Counter[str] = Counter()
        self.asks_of_own: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.cast = 0  # elements of weights from fp32 to the dtype of computing
        self._weights = {storage_of(weight) for weight in weights}
        self._own = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, _, name = func._schema.name.partition("::")
        given = _tensors((args, kwargs))
        is_own = name == "lift_fresh" or (space == "aten" and bool(given) and all(t in self._own for t in given))
        if name in ASKS:
            (self.asks_of_own if is_own else self.asks)[name] += 1
        if space == "c10d" and size_of_group(args) > 1:
            self.bytes[name] += max((t.nbytes for t in given), default=0)
        result = func(*args, **(kwargs or {}))
        if name == "_to_copy" and result.dtype == torch.bfloat16 and storage_of(args[0]) in self._weights:
            self.cast += args[0].numel()
        for tensor in _tensors(result) + (given if space == "c10d" else []):
            if is_own:
                self._own[tensor] = True
            else:
                self._own.pop(tensor, None)
        return result


class Uploads(TorchFunctionMode):
    """Counts tensors that would be copied to a device while the host waits: made there of numbers, or sent there as
    pageable memory is. On a CPU nothing is copied, but the calls are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self._of_numbers = WeakIdKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        result = func(*args, **kwargs)
        if name in ("tensor", "as_tensor", "asarray"):
            self._of_numbers[result] = True
            self.found[name] += kwargs.get("device") is not None
        to_device = any(isinstance(arg, torch.device) for arg in (*args, *kwargs.values()))
        if name in ("to", "cuda") and to_device and args[0] in self._of_numbers:
            self.found[name] += not kwargs.get("non_blocking")
        return result


@contextmanager
def synchronised() -> Iterator[Counter[str]]:
    """Counts DeepSpeed's calls to wait for its accelerator, and its tensors made there of numbers, within the block."""
    import deepspeed.accelerator

    found: Counter[str] = Counter()
    accelerator = deepspeed.accelerator.get_accelerator()
    kind, before = type(accelerator), {}
    for name in ("synchronize", "FloatTensor", "ByteTensor", "IntTensor", "LongTensor"):
        before[name] = real = vars(kind)[name]

        def reported(self: Any, *given: Any, name: str = name, real: Any = real) -> Any:
            found[name] += 1
            return real.fget(self) if isinstance(real, property) else real(self, *given)

        setattr(kind, name, property(reported) if isinstance(real, property) else reported)
    try:
        yield found
    finally:
        for name, real in before.items():
            setattr(kind, name, real)


def storage_of(tensor: torch.Tensor) -> int:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.untyped_storage().data_ptr()


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def size_of_group(args: Any) -> int:
    for arg in tree_leaves(args):
        if isinstance(arg, torch.ScriptObject):
            try:
                return ProcessGroup.unbox(arg).size()
            except RuntimeError:
                continue
    return 1


def count(name: str, folder: Path, world: World) -> dict[str, Any]:
    strategy, *options = name.split("+")
    settings = {"shard_size": 2} if strategy == "hsdp" else {"offload": True} if "offload" in options else {}
    precision = "bfloat16" if "bfloat16" in options else "float32"
    case = {"strategy": strategy, "model": MODEL, "settings": settings, "precision": precision}
    engine = make_engine(case, world)
    fill(engine.pieces(), FreshWeights(tiny_model(MODEL), 0))
    engine.refresh()
    rows, flops = Rows(folder, "train"), Flops.of(tiny_model(MODEL))
    cut = make_cut(rows, None, 64, flops)
    feed = Feed(rows, Order(len(rows), 0), row_borders(10**6, ROWS_A_STEP), cut, world)
    engine.train(True)
    for step in (1, 2):
        train_step(engine, feed.batches(step), feed.num_targets(step), world, 1.0, step)
    batches, targets = feed.batches(3), feed.num_targets(3)
    with Uploads() as uploads, synchronised() as waits, Watch(engine.objective.parameters()) as watch:
        train_step(engine, batches, targets, world, 1.0, 3, StepHooks(lambda: [1.0, 2.0]))
    with Uploads() as in_evaluation, Watch() as watched:
        held_out(engine, all_rows(rows, cut, world), world)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counted:
        train_step(engine, feed.batches(4), feed.num_targets(4), world, 1.0, 4)
    executed = {str(name): n for name, n in counted.get_flop_counts().get("Global", {}).items()}
    products = sum(n for name, n in executed.items() if "attention" not in name)
    attention = flops.per_pair * sum(flops.windows.values())
    useful = 3 * sum(flops.of_rows(rows.lengths[r : r + 1], rows.num_targets[r : r + 1])[0] for r in feed.rows_of(4))
    pairs = sum(rows.lengths[r] * (rows.lengths[r] + 1) / 2 for r in feed.rows_of(4))
    everyones = all_reduce_sum(torch.tensor([float(products)], dtype=torch.float64))
    model = tiny_model(MODEL)
    of_blocks = [sum(p.numel() for p in block.parameters()) for block in blocks(model).values()]
    local = {
        "asks": dict(watch.asks),
        "asks_of_own": dict(watch.asks_of_own),
        "cast": watch.cast,
        "uploads": dict(+uploads.found),
        "synchronised": dict(waits),
        "evaluation": dict(+in_evaluation.found + watched.asks),
        "bytes": dict(watch.bytes),
        "micro_batches": len(batches),
        "parameters": sum(p.numel() for p in model.parameters()),
        "in_blocks": sum(of_blocks),
        "in_last_block": of_blocks[-1],
        "at_rest": at_rest(engine, strategy),
        "linear_useful": useful - 3 * attention * float(pairs),
        "linear_executed": everyones.item(),
    }
    return local


def at_rest(engine: Any, strategy: str) -> int:
    """Returns the bytes of storages that the engine's parts keep after a step: weights, gradients, optimizer state."""
    engine.train(True)
    tensors = [piece.owner for piece in engine.pieces()] + list(engine.objective.parameters())
    tensors += [getattr(p, "ds_tensor", p) for p in engine.objective.parameters()]
    tensors += [v for s in engine.optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
    tensors += [p.grad for p in engine.objective.parameters() if p.grad is not None]
    buffer = getattr(getattr(engine, "deepspeed", None), "optimizer", None)
    tensors += [t for t in [getattr(buffer, "grad_partitions_flat_buffer", None)] if t is not None]
    local = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in local}
    return sum(storages.values())


def main() -> None:
    out, folder, *names = sys.argv[1:]
    torch.set_num_threads(1)
    with process_group() as world:
        found = {name: count(name, Path(folder), world) for name in names}
        if world.is_first:
            Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
