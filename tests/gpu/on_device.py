"""Runs everything that tests/gpu checks, on this process's device: `python -m tests.gpu.on_device OUT ROWS DIR`.

On a machine without accelerators, or with CUDA_VISIBLE_DEVICES empty, the same code runs on the CPU.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distft.checkpoint.load import Checkpoint, restore
from distft.checkpoint.retention import Retention
from distft.checkpoint.save import Saver, Snapshot
from distft.data.batches import make_batch, to_device
from distft.data.order import Order, row_borders
from distft.data.shards import Row, Rows
from distft.losses.cross_entropy import CrossEntropy
from distft.models.build import architecture, blocks, compile_blocks, skeleton
from distft.models.flops import Flops
from distft.models.init import FreshWeights
from distft.optim.groups import decay_groups
from distft.runtime.determinism import seed_for
from distft.runtime.process_group import World, process_group
from distft.strategies.engine import Objective
from distft.tensors.streaming import fill
from distft.train.feed import Feed, make_cut
from distft.train.step import StepHooks, StepResult, train_step
from distft.train.timing import Clock
from tests.support.train_cases import ADAMW, GLOBAL_ROWS, instantiate_strategy, make_engine, run_case, tiny_model

MODEL = "llama3_8b"
STRATEGIES = ("ddp", "fsdp", "zero2", "zero3")
VOCABULARY = 512
LENGTHS = (7, 90, 1, 33)


def cases(rows: str) -> dict[str, dict[str, Any]]:
    """Returns what is trained for 5 steps each."""
    plain = {"strategy": "ddp", "model": MODEL, "micro": 2, "rows": rows}
    found = {strategy: plain | {"strategy": strategy} for strategy in STRATEGIES}
    found["evaluated"] = plain | {"eval_micro": [(8, None), (None, 96)]}
    found["bf16"] = plain | {"precision": "bfloat16"}
    found["zero2-bf16"] = plain | {"strategy": "zero2", "precision": "bfloat16"}
    found["recomputed"] = plain | {"recomputed": "full"}
    found["selective"] = plain | {"recomputed": "selective"}
    found["lora"] = plain | {"lora": {"rank": 4, "alpha": 8.0}, "adamw": {"eps": 1e-6}}
    return found


def ready(world: World, rows: Path, precision: str = "float32", build: Any = None) -> tuple[Any, Feed]:
    """Returns an engine with its weights, and what its steps read. build: of the objective; None: of train_cases."""
    case, model = {"strategy": "ddp", "model": MODEL, "precision": precision}, tiny_model(MODEL)
    engine = make_engine(case, world)
    if build is not None:
        dtype = getattr(torch, precision)
        adamw = lambda parameters: torch.optim.AdamW(decay_groups(parameters), **ADAMW)  # noqa: E731
        engine = instantiate_strategy("ddp").setup(build, adamw, world, dtype)
    fill(engine.pieces(), FreshWeights(model, 0))
    engine.refresh()
    engine.train(True)
    data = Rows(rows, "train")
    cut = make_cut(data, 2, None, Flops.of(model))
    return engine, Feed(data, Order(len(data), 0), row_borders(8 * GLOBAL_ROWS, GLOBAL_ROWS), cut, world)


def step(engine: Any, feed: Feed, number: int, world: World, batches: Any = None, **more: Any) -> StepResult:
    batches = feed.batches(number) if batches is None else batches
    return train_step(engine, batches, feed.num_targets(number), world, 1.0, seed_for(0, "step", number), **more)


def save_and_reload(world: World, rows: Path, folder: Path) -> dict[str, int]:
    """Saves in the background while the next step is made; returns what differs after the save was loaded."""
    engine, feed = ready(world, rows)
    saver = Saver(folder, Retention(1), world, snapshot=Snapshot(world.device))

    def state() -> list[torch.Tensor]:
        moments = [
            v for each in engine.optimizer.state.values() for v in each.values() if torch.is_tensor(v) and v.ndim
        ]
        return [p.data() for p in engine.pieces()] + [getattr(value, "_local_tensor", value) for value in moments]

    def differ() -> int:
        return sum(not torch.equal(a, b) for a, b in zip(before, state(), strict=True))

    step(engine, feed, 1, world)
    before = [tensor.clone() for tensor in state()]
    saver.start(engine, 1, {})
    step(engine, feed, 2, world, hooks=StepHooks(before_update=saver.wait_copied))
    changed = differ()
    saver.finish()
    restore(engine, Checkpoint((folder / "latest").resolve(), world), world)
    return {"tensors": len(before), "changed": changed, "differ": differ()}


def by_kernel(world: World, rows: Path) -> dict[str, list[list[float]]]:
    """Returns losses and norms of 5 steps in bf16 by each kernel that this device has, compiled where it can be."""
    found = {}
    for kernel, compiles in [("sdpa", False), *[("varlen", False), ("varlen", True)] * (world.device.type == "cuda")]:

        def build(kernel: str = kernel, compiles: bool = compiles) -> Objective:
            model = skeleton(architecture(None, tiny_model(MODEL).config.to_dict()), kernel)
            repeated = list(blocks(model).values())
            if compiles:
                compile_blocks(model, repeated, world.device)
            return Objective(model, CrossEntropy(), repeated)

        engine, feed = ready(world, rows, "bfloat16", build)
        steps = [step(engine, feed, number, world) for number in range(1, 6)]
        found[f"{kernel}{'-compiled' * compiles}"] = [[each.loss, each.grad_norm] for each in steps]
    return found


@torch.no_grad()
def isolation(world: World, kernel: str) -> dict[str, Any]:
    """Returns which documents of a row change a bit as their neighbours change, and how far from alone all are."""
    empty = skeleton(architecture(None, tiny_model(MODEL).config.to_dict()), kernel)
    source = FreshWeights(empty, 0)
    model = type(empty)(empty.config)
    model.tie_weights()
    for name, parameter in model.named_parameters():
        parameter.copy_(source.read(name, tuple(parameter.shape), 0, parameter.numel()).view(parameter.shape))
    model = model.to(world.device, torch.bfloat16 if world.device.type != "cpu" else torch.float32).eval()
    random = np.random.default_rng(0)
    documents = [random.integers(0, VOCABULARY, length).astype(np.int32) for length in LENGTHS]

    def logits(rows: list[np.ndarray]) -> list[torch.Tensor]:
        [batch] = to_device([make_batch([Row(ids, np.ones(len(ids), bool)) for ids in rows])], world.device)
        return list(model(**batch.inputs()).logits[0].float().split([len(ids) for ids in rows]))

    before, alone = logits(documents), [logits([ids])[0] for ids in documents]
    after = logits([(ids + 1) % VOCABULARY if i == 1 else ids for i, ids in enumerate(documents)])
    far = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(before, alone, strict=True))
    return {"changed": [i for i in range(len(LENGTHS)) if not torch.equal(before[i], after[i])], "from_alone": far}


def pending_clock(world: World) -> list[float]:
    """Asks for the seconds of work that may not be done yet, and again when it is; returns both answers."""
    clock, size = Clock(world.device), 4096 if world.device.type != "cpu" else 512
    matrix = torch.randn(size, size, device=world.device)
    with clock.phase("forward"):
        for _ in range(20):
            matrix = matrix @ matrix.T / size
    first = clock.take().get("forward", 0.0)
    if world.device.type != "cpu":
        torch.accelerator.synchronize(world.device)
    return [first, clock.take().get("forward", 0.0)]


def waits(world: World, rows: Path) -> int:
    """Returns how often torch says that the host waits for the device in one steady step, 0 where there is none."""
    engine, feed = ready(world, rows, "bfloat16")
    for number in (1, 2, 3):
        step(engine, feed, number, world)
    batches = feed.batches(4)
    cuda = world.device.type == "cuda"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("warn")
        step(engine, feed, 4, world, batches)
        if cuda:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(each.message) for each in said)


def main() -> None:
    out, rows, folder = sys.argv[1:]
    torch.set_num_threads(1)
    with process_group() as world:
        on_cuda = world.device.type == "cuda"
        found: dict[str, Any] = {"device": world.device.type}
        found["runs"] = {name: run_case(case, world) for name, case in cases(rows).items()}
        found["kernels"] = by_kernel(world, Path(rows))
        found["saved"] = save_and_reload(world, Path(rows), Path(folder))
        found["isolation"] = {kernel: isolation(world, kernel) for kernel in ("sdpa", *["varlen"] * on_cuda)}
        found["clock"] = pending_clock(world)
        found["waits"] = waits(world, Path(rows))
        Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
