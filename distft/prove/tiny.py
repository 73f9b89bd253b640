"""The ranks of a series of tiny runs, which share one process group and one import of the libraries.

A case is a run folder, trained by the worker like any run. After a case that fails the others follow: in this process
if it is the only one, else, or when the device itself has failed, in a restarted series.
"""

import gc
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distft.checkpoint.load import Checkpoint, restore
from distft.checkpoint.retention import Retention
from distft.checkpoint.save import Saver, Snapshot
from distft.config import read_config
from distft.data.batches import make_batch, to_device
from distft.data.shards import Row
from distft.losses.cross_entropy import logits
from distft.models.flops import Flops
from distft.prove.jobs import CASES, Result, add_result, results_of
from distft.run import RunFolder, read_json
from distft.runtime.determinism import seed_for
from distft.runtime.process_group import World, all_reduce_sum, from_first
from distft.train.step import StepHooks, train_step
from distft.worker import Attempt, make_engine, make_feed, make_skeleton, resume, train

_DEVICE_ERRORS = ("CUDA error", "HIP error", "device-side assert", "NCCL")


def work(run: RunFolder, attempt: int, world: World) -> None:
    """Runs each case without a result; rank 0 writes the results to results.jsonl."""
    begun = {result["name"] for result in results_of(run)} if world.is_first else ()
    left = [case for case in read_json(run.path / CASES) if case["name"] not in begun]
    for case in json.loads(from_first(json.dumps(left), world)):  # rank 0 writes the file that it has read
        if world.is_first:
            add_result(run, {"name": case["name"], "state": "begun"})
        began = time.monotonic()
        result = _guarded(case, world)
        if world.is_first:
            add_result(run, {"name": case["name"], "seconds": time.monotonic() - began, **result})
        _free(world)
    if world.is_first:
        run.write_status(state="completed")


def _guarded(case: Mapping[str, str], world: World) -> Result:
    try:
        return {"state": "done", **KINDS[case["kind"]](RunFolder(Path(case["run"])), world)}
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        if world.size > 1 or any(word in text for word in _DEVICE_ERRORS):
            raise
        return {"state": "failed", "error": text.strip().splitlines()[0][:400]}


def _free(world: World) -> None:
    gc.collect()
    if world.device.type != "cpu":
        torch.accelerator.empty_cache()


def train_one(run: RunFolder, world: World) -> Result:
    """Trains a frozen run to its end; losses and gradient norms are in its metrics.jsonl."""
    train(run, 1, world)
    if world.is_first:
        shutil.rmtree(run.checkpoints)
    return {}


@torch.no_grad()
def isolate(run: RunFolder, world: World) -> Result:
    """Returns the distance of the logits of packed documents from those of each alone, and the documents whose logits
    change with their neighbours.

    With other neighbours the shapes are the same, so the logits must be bit-equal.
    """
    config, plan = read_config(run), run.read_plan()
    engine = make_engine(config, plan, world)
    resume(Attempt(run, 1, config, plan, world), engine, make_skeleton(config, plan))
    engine.train(False)
    random = np.random.default_rng(1)
    vocabulary = config.model.tiny_architecture["vocab_size"]
    lengths = (5, 64, 1, 90, 33)
    documents = [random.integers(0, vocabulary, length).astype(np.int32) for length in lengths]
    others = [(ids + 1 + i) % vocabulary if i % 2 else ids for i, ids in enumerate(documents)]

    def outputs(*rows: np.ndarray) -> list[torch.Tensor]:
        [batch] = to_device([make_batch([Row(ids, np.ones(len(ids), bool)) for ids in rows])], world.device)
        return list(engine.forward(batch, logits)[1]["logits"][0].float().split([len(ids) for ids in rows]))

    packed, alone = outputs(*documents), [outputs(ids)[0] for ids in documents]
    with_others = outputs(*others)
    scale = max(float(each.abs().max()) for each in alone)
    distance = max(float((a - b).abs().max()) for a, b in zip(packed, alone, strict=True)) / scale
    changed = [i for i in range(0, len(lengths), 2) if not torch.equal(packed[i], with_others[i])]
    finite = all(bool(each.isfinite().all()) for each in packed)
    return {"from_alone": distance, "changed_by_neighbours": changed, "finite": finite}


def save_in_background(run: RunFolder, world: World) -> Result:
    """Returns how many tensors of a save that was written during training differ from those of its step."""
    config, plan = read_config(run), run.read_plan()
    model = make_skeleton(config, plan)
    engine = make_engine(config, plan, world)
    resume(Attempt(run, 1, config, plan, world), engine, model)
    feed = make_feed(config, plan, Flops.of(model), world)
    saver = Saver(run.checkpoints, Retention(1), world, snapshot=Snapshot(world.device))

    def step(number: int) -> None:
        seed = seed_for(config.seed, "step", number)
        targets = feed.num_targets(number)
        train_step(engine, feed.batches(number), targets, world, 1.0, seed, StepHooks(before_update=saver.wait_copied))

    def state() -> list[torch.Tensor]:
        kept = [piece.data() for piece in engine.pieces()]
        moments = [value for each in engine.optimizer.state.values() for value in each.values()]
        return [*kept, *(_local(value) for value in moments if torch.is_tensor(value) and value.ndim)]

    engine.train(True)
    step(1)
    at_save = [tensor.clone() for tensor in state()]
    saver.start(engine, 1, {})
    step(2)
    changed = _differ(at_save, state(), world)
    saver.finish()
    restore(engine, Checkpoint((run.checkpoints / "latest").resolve(), world), world)
    differ = _differ(at_save, state(), world)
    if world.is_first:
        shutil.rmtree(run.checkpoints, ignore_errors=True)
    return {"tensors": len(at_save), "changed_by_next_step": changed, "differ": differ}


def _differ(some: list[torch.Tensor], others: list[torch.Tensor], world: World) -> int:
    """Returns how many tensors are not bit-equal, over all processes."""
    mine = sum(not torch.equal(a, b) for a, b in zip(some, others, strict=True))
    return int(all_reduce_sum(torch.tensor(mine, device=world.device)))


def _local(tensor: Any) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


KINDS: dict[str, Callable[[RunFolder, World], Result]] = {
    "train": train_one,
    "isolate": isolate,
    "save_in_background": save_in_background,
}
