"""Saves on a disk that fills up and gets room again: `python -m tests.checkpoint.full_disk OUT DISK`.

Every process reports each stage; the disk is filled by rank 0 between two saves.
"""

import io
import json
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from distft.checkpoint.load import find
from distft.checkpoint.save import SaveFailed, Snapshot
from distft.config import Config
from distft.models.init import FreshWeights
from distft.run import RunFolder
from distft.runtime.process_group import World, process_group, texts_of_all
from distft.tensors.streaming import fill
from distft.train.state import Checkpointer
from distft.worker import Attempt, make_saver
from tests.support import small_disk
from tests.support.train_cases import make_engine, tiny_model

ON_FAILURE = ("continue", "stop")


def make_saving(run: RunFolder, background: bool, on_failure: str, world: World) -> Checkpointer:
    case = {"strategy": "fsdp", "model": "gpt2"}
    engine = make_engine(case, world)
    fill(engine.pieces(), FreshWeights(tiny_model("gpt2"), 0))
    checkpoint = {"keep": 2, "every_minutes": None, "background": background, "on_failure": on_failure}
    config = Config.of({"checkpoint": checkpoint})
    plan: Any = SimpleNamespace(memory={}, reads={}, base_step=0, base_row=0)
    attempt = Attempt(run, 1, config, plan, world)
    return make_saver(attempt, engine, lambda step: step, 0, Snapshot(world.device))


def attempt(saving: Checkpointer, step: int, world: World, background: bool) -> dict[str, Any]:
    """Saves as a run does, up to the step border after the last process has written; reports the result."""
    printed, raised = io.StringIO(), ""
    with redirect_stdout(printed):
        try:
            saving.save(step, None, False)
            while background and saving.saver.pending and not saving.saver.is_written:
                time.sleep(0.01)
            saving.commit()
        except SaveFailed as error:
            raised = str(error)
        found = find(saving.saver.checkpoints, "auto", world)
    names = sorted(path.name for path in saving.saver.checkpoints.iterdir())
    return {"printed": printed.getvalue(), "raised": raised, "found": found and found.step, "names": names}


def fill_up(disk: Path, background: bool, on_failure: str, world: World) -> list[dict[str, Any]]:
    """Saves with room, with half of it, with all but a page of it for headers and manifest, and with room again."""
    run = RunFolder(disk / f"{background}-{on_failure}")
    if world.is_first:
        run.path.mkdir()
        run.config.write_text("{}\n")
    dist.barrier()
    saving = make_saving(run, background, on_failure, world)
    seen = [attempt(saving, 1, world, background)]
    size = sum(file.stat().st_size for file in run.checkpoints.glob("step-*/rank-*"))
    for step, leave in ((2, size // 2), (3, size + small_disk.PAGE), (4, None)):
        if world.is_first:
            (disk / "filler").unlink(missing_ok=True) if leave is None else small_disk.fill(disk, leave)
        dist.barrier()
        seen.append(attempt(saving, step, world, background))
    return seen


def main() -> None:
    out, disk = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    with process_group() as world:
        seen = [
            fill_up(disk, background, on_failure, world) for background in (False, True) for on_failure in ON_FAILURE
        ]
        output = [json.loads(text) for text in texts_of_all(json.dumps(seen), world)]
        if world.is_first:
            Path(out).write_text(json.dumps(output))


if __name__ == "__main__":
    main()
