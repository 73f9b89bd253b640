"""Trains with saves in the background, slow or failing: `python -m tests.checkpoint.overlapped OUT ROWS DIR CASES`.

A case is [on_failure, failing step]: rank 1 cannot write the save of that step, 0 for none; rank 0 takes its time.
"""

import io
import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from distft.checkpoint import saver
from distft.checkpoint.keep import latest
from distft.checkpoint.saver import SaveFailed
from distft.checkpoint.snapshot import Snapshot
from distft.data.shards import Rows
from distft.data.steps import Order, row_borders
from distft.models.flops import Flops
from distft.models.fresh import FreshWeights
from distft.models.weights import fill
from distft.run import RunFolder
from distft.runtime.process_group import World, process_group, texts_of_all
from distft.state import Saving
from distft.train.feed import Feed, make_cut
from distft.train.loop import Hooks, Settings, train_steps
from distft.train.when import EarlyStopping, When
from tests.train_cases import make_engine, tiny_model

STEPS, EVERY, SLOW_SECONDS = 8, 2, 1.0


class Writes:
    """Stands before the real write_file: slow on rank 0, failing at one step on rank 1; counts those under way."""

    def __init__(self, world: World, failing_step: int) -> None:
        self.world, self.failing_step, self.now, self.most = world, failing_step, 0, 0
        self.real: Callable[..., Any] = saver.write_file

    def __call__(self, file: Path, chunks: Any) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if self.world.rank == 1 and f"{self.failing_step:08d}" in file.parent.name:
                raise OSError(5, "Input/output error", str(file))
            if self.world.is_first:
                time.sleep(SLOW_SECONDS)
            return self.real(file, chunks)
        finally:
            self.now -= 1


def train(rows: Path, run: RunFolder, on_failure: str, failing_step: int, world: World) -> dict[str, Any]:
    """Trains; returns what was printed by the end of each step, what was raised, and what is there."""
    engine: Any = make_engine({"strategy": "fsdp", "model": "gpt2"}, world)
    fill(engine.pieces(), FreshWeights(tiny_model("gpt2"), 0))
    checkpoint = {"keep": 9, "keep_every": None, "background": True, "on_failure": on_failure, "resume": "auto"}
    plan: Any = SimpleNamespace(memory={}, reads={}, base_step=0, base_row=0)
    data = Rows(rows, "train")
    cut = make_cut(data, 2, None, Flops(1.0, 0.0, 0.0, {None: 1}))
    feed = Feed(data, Order(len(data), 0), row_borders(8 * STEPS, 8), cut, world)
    settings: Any = {"checkpoint": checkpoint, "strategy": {}}
    saving = Saving(engine, settings, plan, run, 0, feed.position, world, Snapshot(world.device))
    writes = saver.write_file = Writes(world, failing_step)
    printed, said, raised = io.StringIO(), {}, ""
    hooks = Hooks(
        evaluate=None,
        is_best=saving.is_best,
        save=saving.save,
        is_save_overdue=saving.is_overdue,
        wait_copied=saving.saver.wait_copied,
        is_written=lambda: saving.saver.is_written,
        is_failed=lambda: saving.saver.is_failed,
        advance=saving.advance,
        log=lambda row: said.update({row["step"] - 1: printed.getvalue()}),  # what came before this step's own saves
        judge=lambda *_: "go_on",
        stop_requested=lambda: False,
    )
    loop = Settings(0, 1.0, 0, When(None, STEPS, at_last=False), When(EVERY, STEPS), False)
    with redirect_stdout(printed):
        try:
            train_steps(engine, feed, lambda _: 1.0, loop, EarlyStopping(None), hooks, world)
            saving.close(STEPS)
        except SaveFailed as error:
            raised = str(error)
    saver.write_file = writes.real
    newest = latest(run.checkpoints)
    return {"said": said, "raised": raised, "most": writes.most, "latest": newest and newest.name, "steps": len(said)}


def main() -> None:
    out, rows, folder = sys.argv[1:4]
    torch.set_num_threads(1)
    with process_group() as world:
        answers = []
        for i, (on_failure, failing_step) in enumerate(json.loads(sys.argv[4])):
            run = RunFolder(Path(folder) / str(i))
            run.path.mkdir(exist_ok=True)
            run.config.write_text("{}\n")
            answers.append(train(Path(rows), run, on_failure, failing_step, world))
        told = [json.loads(text) for text in texts_of_all(json.dumps(answers), world)]
        if world.is_first:
            Path(out).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
