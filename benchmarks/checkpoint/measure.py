"""The cost of saving a model with AdamW's state, on every rank of one group.

All ways of writing come in turn in every round, there and back, so a disk that is slow for a while is slow for all.
Trap: pages of a file that was written and not synced make the next one look slow; every way ends with an fsync.
"""

import gc
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import xxhash
import yaml
from hydra.utils import instantiate
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from distft.checkpoint.chunks import BLOCK, chunks_of
from distft.checkpoint.retention import Retention
from distft.checkpoint.save import Saver, Snapshot
from distft.data.batches import Batch, make_batch
from distft.data.shards import Row
from distft.losses.cross_entropy import CrossEntropy
from distft.models.build import architecture, blocks, skeleton
from distft.models.init import FreshWeights
from distft.optim.groups import decay_groups
from distft.paths import conf_dir
from distft.runtime.process_group import World, process_group
from distft.strategies.engine import Engine, Objective
from distft.tensors.streaming import fill
from distft.train.step import train_step

Seconds = dict[str, float]


def make_engine(model: str, strategy: str, world: World) -> Engine:
    """Returns a model with random weights and, after one step, AdamW's state."""
    facts = yaml.safe_load((conf_dir() / "model" / f"{model}.yaml").read_text())["architecture"]

    def build() -> Objective:
        net = skeleton(architecture(None, facts), "sdpa")
        return Objective(net, CrossEntropy(), list(blocks(net).values()))

    chosen = instantiate(yaml.safe_load((conf_dir() / "strategy" / f"{strategy}.yaml").read_text()))
    engine = chosen.setup(
        build, lambda parameters: torch.optim.AdamW(decay_groups(parameters), lr=1e-5), world, torch.float32
    )
    fill(engine.pieces(), FreshWeights(skeleton(architecture(None, facts), "sdpa"), 0))
    engine.refresh()
    train_step(engine, [tokens(1, 16)], 15 * world.size, world, 1.0, 0)
    return engine


def plain(file: Path, blocks: list[memoryview]) -> None:
    """Writes this rank's share like `dd bs=16M conv=fsync`: the same bytes, without metadata."""
    with file.open("wb", buffering=0) as handle:
        for block in blocks:
            handle.write(block)
        os.fsync(handle.fileno())


def by_dcp(folder: Path, engine: Engine) -> None:
    """Writes the same tensors with torch.distributed.checkpoint, and syncs its files."""
    state: dict[str, torch.Tensor] = {}
    for piece in engine.pieces():
        state[f"parameter|{piece.name}"] = piece.owner
        for slot, value in engine.optimizer.state[piece.owner].items():
            state[f"{slot}|{piece.name}"] = value
    dcp_save(state, storage_writer=FileSystemWriter(folder, sync_files=True))


def timed(action: Callable[[], object]) -> float:
    """Returns the seconds until the last rank is done; all start at the same time."""
    gc.collect()
    dist.barrier()
    began = time.perf_counter()
    action()
    dist.barrier()
    return time.perf_counter() - began


def saving(saver: Saver, engine: Engine, step: int) -> Seconds:
    """Returns the seconds that training waits for a background save, and how much slower it is during one.

    Between start and update lies a forward and backward pass over 256 tokens, as short as any that trains.
    """
    alone = timed(lambda: forward_and_backward(engine))
    began = time.perf_counter()
    start = timed(lambda: saver.start(engine, step, {}))
    during = timed(lambda: forward_and_backward(engine))
    copy = timed(saver.wait_copied)
    advance = 0.0
    while saver.pending:
        while not saver.is_written:
            time.sleep(0.01)
        dist.barrier()  # else a rank that is done would wait in `advance`, unlike in training
        advance += timed(saver.advance)
    counts = time.perf_counter() - began
    times = {"start": start, "copy": copy, "advance": advance, "stall": start + copy + advance}
    return times | {"until it counts": counts, "alone": alone, "during": during}


def forward_and_backward(engine: Engine) -> None:
    loss, _ = engine.forward(tokens(4, 64))
    engine.backward(loss, scale=0.0, last=True)


def tokens(documents: int, length: int) -> Batch:
    """Returns documents of which every token is trained on."""
    rows = np.arange(documents * length, dtype=np.int32).reshape(documents, length)
    return make_batch([Row(row, np.ones(length, bool)) for row in rows])


def cleaned(saver: Saver) -> None:
    """Waits until older checkpoints are deleted, which would slow the next measurement."""
    saver.cleaner.submit(gc.collect).result()


def hashing(blocks: list[memoryview]) -> Seconds:
    """Returns the seconds to hash this rank's share, in blocks as they are written."""
    found = {}
    for name, digest in (("xxh3_128", xxhash.xxh3_128()), ("sha256", hashlib.sha256())):
        found[name] = timed(lambda update=digest.update: [update(block) for block in blocks])
    return found


class Growth:
    """The largest growth of this process during each of several tasks."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _resident("VmRSS")
        yield
        self.bytes[name] = max(self.bytes.get(name, 0), _resident("VmHWM") - before)


def _resident(what: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def measure(model: str, strategy: str, rounds: int, folder: Path, world: World) -> dict[str, object]:
    """Returns bytes, memory growth, and seconds of every method and round; round 0 is the warm-up."""
    engine = make_engine(model, strategy, world)
    parts = [part for chunk in chunks_of(engine) for part in chunk.data]
    blocks = [block.numpy().data.cast("B") for part in parts for block in part.split(BLOCK)]
    share = sum(len(block) for block in blocks)
    folder.mkdir(parents=True, exist_ok=True)
    here = Saver(folder / "here", Retention(1), world)
    snapshot = Snapshot(world.device)
    behind = Saver(folder / "behind", Retention(1), world, snapshot=snapshot)
    memory, found = Growth(), list[Seconds]()
    with memory.of("buffer"):
        snapshot.reserve(share // 4)
    for step in range(1, rounds + 2):
        times: Seconds = {}

        def write_plainly(times: Seconds = times) -> None:
            file = folder / f"plain-{world.rank}"
            times["plain"] = timed(lambda: plain(file, blocks))
            file.unlink()

        def save(times: Seconds = times, step: int = step) -> None:
            with memory.of("save"):
                times["save"] = timed(lambda: here.start(engine, step, {}))
            cleaned(here)

        def save_by_dcp(times: Seconds = times) -> None:
            times["dcp"] = timed(lambda: by_dcp(folder / "dcp", engine))
            if world.is_first:
                shutil.rmtree(folder / "dcp")

        def save_behind(times: Seconds = times, step: int = step) -> None:
            times |= saving(behind, engine, step)
            cleaned(behind)

        ways = [write_plainly, save, save_by_dcp, save_behind]
        for way in ways if step % 2 else reversed(ways):
            way()
        found.append(times | hashing(blocks))
    with memory.of("background"):  # without the activations of concurrent training
        behind.start(engine, rounds + 2, {})
        behind.finish()
    total = torch.tensor([share])
    dist.all_reduce(total)
    return {"bytes": total.item(), "share": share, "rounds": found[1:], "memory": memory.bytes}


def main() -> None:
    out, model, strategy, rounds, folder = sys.argv[1:]
    with process_group() as world:
        found = measure(model, strategy, int(rounds), Path(folder), world)
        if world.is_first:
            Path(out).write_text(json.dumps(found))
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
