"""What saving a model with AdamW's state costs, on every rank of one group.

All ways of writing come in turn in every round, so a disk that is slow for a while is slow for all of them.
Trap: pages of a file that was written and not synced make the next one look slow; every way ends with an fsync.
"""

import gc
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import xxhash
import yaml
from hydra.utils import instantiate

from distft.checkpoint.chunks import chunks_of
from distft.checkpoint.file import BLOCK
from distft.checkpoint.keep import Retention
from distft.checkpoint.saver import Saver
from distft.data.batches import Batch
from distft.losses.cross_entropy import CrossEntropy
from distft.models.fresh import FreshWeights
from distft.models.skeleton import architecture, blocks, skeleton
from distft.models.weights import fill
from distft.optim.groups import decay_groups
from distft.paths import conf_dir
from distft.runtime.process_group import World, process_group
from distft.strategies.engine import Engine
from distft.strategies.objective import Objective
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
    ids = torch.arange(16)[None]
    train_step(engine, [Batch(ids, torch.arange(15), torch.arange(1, 16))], 15 * world.size, world, 1.0, 0, [])
    return engine


def plain(folder: Path, size: int, world: World) -> None:
    """Writes as many bytes as this rank's share has, as `dd bs=16M conv=fsync` does."""
    block = memoryview(bytearray(os.urandom(2**20) * 16))
    with (folder / f"plain-{world.rank}").open("wb", buffering=0) as file:
        for start in range(0, size, len(block)):
            file.write(block[: size - start])
        os.fsync(file.fileno())


def timed(action: Callable[[], object]) -> float:
    """Returns the seconds until the last rank is done, all having begun together."""
    gc.collect()
    dist.barrier()
    began = time.perf_counter()
    action()
    dist.barrier()
    return time.perf_counter() - began


def saving(saver: Saver, engine: Engine, step: int) -> Seconds:
    """Returns the seconds that training waits for a save in the background, and those until it counts."""
    began = time.perf_counter()
    stall = timed(lambda: saver.start(engine, step, {}))
    while not saver.is_written:
        time.sleep(0.01)
    dist.barrier()  # a rank whose share is on disk would wait for the others in `finish`, training would not
    stall += timed(saver.finish)
    counts = time.perf_counter() - began
    assert saver.pool is not None
    saver.pool.submit(gc.collect).result()  # the older checkpoint is deleted: it shall not slow what is measured next
    return {"stall": stall, "until it counts": counts}


def hashing(blocks: list[memoryview]) -> Seconds:
    """Returns the seconds to hash this rank's share, in blocks as they are written."""
    found = {}
    for name, digest in (("xxh3_128", xxhash.xxh3_128()), ("sha256", hashlib.sha256())):
        found[name] = timed(lambda update=digest.update: [update(block) for block in blocks])
    return found


def resident_bytes() -> int:
    """Returns what this process has in memory, from where on it may grow."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    return _resident("VmRSS")


def grown_bytes(before: int) -> int:
    """Returns by how much this process has grown at most since then."""
    return _resident("VmHWM") - before


def _resident(what: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def measure(model: str, strategy: str, rounds: int, folder: Path, world: World) -> dict[str, object]:
    """Returns bytes, and seconds of every way and round; round 0 warms up."""
    folder.mkdir(parents=True, exist_ok=True)
    engine = make_engine(model, strategy, world)
    share = sum(4 * chunk.data.numel() for chunk in chunks_of(engine))
    retention = Retention(1)
    here, behind = Saver(folder / "here", retention, world), Saver(folder / "behind", retention, world, 0, True)
    memory: dict[str, int] = {}
    before = resident_bytes()
    behind.warm(share // 4)
    memory["buffer"] = grown_bytes(before)
    found: list[Seconds] = []
    for step in range(1, rounds + 2):
        times = {"plain": timed(lambda: plain(folder, share, world))}
        (folder / f"plain-{world.rank}").unlink()
        before = resident_bytes()
        times["save"] = timed(lambda step=step: here.start(engine, step, {}))
        memory["save"] = grown_bytes(before)
        before = resident_bytes()
        times |= saving(behind, engine, step)
        memory["background"] = grown_bytes(before)
        views = [block.numpy().data.cast("B") for chunk in chunks_of(engine) for block in chunk.data.split(BLOCK)]
        found.append(times | hashing(views))
    total = torch.tensor([share])
    dist.all_reduce(total)
    return {"bytes": total.item(), "share": share, "rounds": found[1:], "memory": memory, "block": 4 * BLOCK}


def main() -> None:
    out, model, strategy, rounds, folder = sys.argv[1:]
    with process_group() as world:
        found = measure(model, strategy, int(rounds), Path(folder), world)
        if world.is_first:
            Path(out).write_text(json.dumps(found))
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
