"""Time of a step by kind of operation, and the roofline: `python -m benchmarks.roofline [compiled=true]`, on a CPU.

Forward and backward of a model over rows of documents. Operations are counted by torch, and the bytes of what each
operation reads and writes by the tensors it is given. The least time of a kind is the greater of operations over the
rate of the matrix product, and bytes over that of memory, both measured in the same minute (Williams et al. 2009).
"""

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.measurement import table
from benchmarks.peers.flops import measure
from benchmarks.rows import demo_folder
from distft.config import ConfigError, command
from distft.config.command import keywords
from distft.data.batches import Batch, make_batch
from distft.data.shards import Row
from distft.losses.cross_entropy import CrossEntropy
from distft.models.build import architecture, blocks, compile_blocks, skeleton
from distft.models.flops import Flops
from distft.models.heads import make_foldable

DOCUMENTS = (512, 320, 128, 64)  # tokens
TRAINED = 16  # every so manyth token
REPEATS = 5
KINDS = ("matrix products", "attention", "moves and fills", "other elementwise work and sums")
_MOVES = ("copy", "cat", "clone", "fill", "zero", "index", "embedding", "contiguous")
_COPIED = 256 * 2**20  # bytes, past every cache

KEYS = {"compiled": "true: by torch.compile, which knows fewer operations by name; default false"}


def kind_of(name: str) -> str:
    """Returns the kind of an operation, one of KINDS; compiled operations count as elementwise."""
    word = name.rpartition("::")[2].rstrip("_")
    if word in ("mm", "addmm", "bmm"):
        return KINDS[0]
    if "attention" in word:
        return KINDS[1]
    return KINDS[2] if any(move in word for move in _MOVES) else KINDS[3]


class Moved(TorchDispatchMode):
    """Adds up operations and bytes by kind; a view moves nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: defaultdict[str, int] = defaultdict(int)
        self.flops: defaultdict[str, int] = defaultdict(int)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        out = [leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        kind = kind_of(func.name().partition(".")[0])
        if kind == KINDS[0]:
            *_, left, right = (each for each in args if isinstance(each, torch.Tensor))
            self.flops[kind] += 2 * left.numel() * right.shape[-1]
        there = {tensor.untyped_storage().data_ptr() for tensor in given}
        is_view = not func._schema.is_mutable and all(t.untyped_storage().data_ptr() in there for t in out)
        if not is_view:
            self.bytes[kind] += sum(t.numel() * t.itemsize for t in (*given, *out))
        return made


def live_model(folder: Path) -> Any:
    """Returns the model of `folder` with random weights, which do not change the time."""
    empty = skeleton(architecture(folder, {}), "sdpa")
    model = type(empty)(empty.config)
    make_foldable(model)
    model.tie_weights()
    return model.train()


def batch() -> Batch:
    random = np.random.default_rng(0)
    return make_batch(
        [Row(random.integers(0, 1000, n).astype(np.int32), np.arange(n) % TRAINED == 1) for n in DOCUMENTS]
    )


def gigabytes_a_second() -> float:
    """Returns GB/s that memory reads and writes while a large tensor is copied; the median of REPEATS."""
    source = torch.ones(_COPIED // 4)
    target = torch.empty_like(source)
    target.copy_(source)
    return median(2 * _COPIED / seconds_of(lambda: target.copy_(source)) / 1e9 for _ in range(REPEATS))


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measured_seconds(work: Callable[[], object]) -> dict[str, float]:
    """Returns the seconds of each kind, of all operations together as long as the step takes without a profiler."""
    alone = median(seconds_of(work) for _ in range(REPEATS))
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        work()
    spent: defaultdict[str, float] = defaultdict(float)
    for each in recorded.key_averages():
        spent[kind_of(each.key)] += each.self_cpu_time_total / 1e6
    whole = sum(spent.values())
    return {kind: seconds * alone / whole for kind, seconds in spent.items()}


def counted(model: Any, work: Callable[[], object]) -> Moved:
    """Returns operations and bytes of a step, uncompiled; those of attention by the model's shape."""
    with Moved() as moved:
        work()
    targets = np.array([len(range(1, n, TRAINED)) for n in DOCUMENTS])
    useful = 3 * Flops.of(model).of_rows(np.array(DOCUMENTS), targets).sum()
    moved.flops[KINDS[1]] = int(useful) - moved.flops[KINDS[0]]
    return moved


def main(arguments: list[str]) -> int:
    """Prints the table."""
    word = keywords(arguments, KEYS, required=()).get("compiled", "false")
    if word not in ("true", "false"):
        raise ConfigError([f"compiled={word}: is not true or false. Try: compiled=true"])
    model, rows = live_model(demo_folder() / "smollm2-135m-instruct"), batch()

    def work() -> None:
        value, _ = CrossEntropy()(model, rows)
        value.backward()
        model.zero_grad()

    work()
    moved = counted(model, work)
    if word == "true":
        compile_blocks(model, blocks(model).values(), torch.device("cpu"))
        work()
    rate, bandwidth = measure(torch.get_num_threads()), gigabytes_a_second()
    seconds = measured_seconds(work)
    least = {kind: max(moved.flops[kind] / rate, moved.bytes[kind] / bandwidth) / 1e9 for kind in KINDS}
    print(f"{sum(DOCUMENTS):,} tokens in documents of {', '.join(map(str, DOCUMENTS))}")
    print(f"{torch.get_num_threads()} threads: fp32 matrix product {rate:.0f} GFLOP/s, copying {bandwidth:.1f} GB/s\n")
    columns = [moved.flops, moved.bytes, least, seconds]
    lines = [(kind, [of.get(kind, 0) for of in columns]) for kind in KINDS]
    lines.append(("all", [sum(of.values()) for of in columns]))
    written = [
        [kind, f"{flops / 1e9:,.0f}", f"{size / 1e9:.1f}", f"{least:.2f}", f"{seconds:.2f}"]
        for kind, (flops, size, least, seconds) in lines
    ]
    print(table(["operations", "GFLOP", "GB", "least s", "measured s"], written))
    return 0


if __name__ == "__main__":
    command(main, help="\n".join([__doc__ or "", *(f"{key}: {about}" for key, about in KEYS.items())]))
