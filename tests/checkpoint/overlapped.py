"""Trains with saves in the background, slow or failing: `python -m tests.checkpoint.overlapped OUT ROWS DIR CASES`.

A case: {"on_failure", "failing": the step that rank 1 cannot write, "slow": seconds that rank 0 takes to write,
"losses": the held-out losses of steps 0, 1, ..., of which rank 1 sees the opposite, and other settings}.
"""

import io
import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from distft.checkpoint import retention, save
from distft.checkpoint.format import read_manifest
from distft.checkpoint.retention import latest
from distft.checkpoint.save import SaveFailed, Snapshot
from distft.data.order import Order, row_borders
from distft.data.shards import Rows
from distft.models.flops import Flops
from distft.models.init import FreshWeights
from distft.run import RunFolder
from distft.runtime.process_group import World, process_group, texts_of_all
from distft.tensors.streaming import fill
from distft.train.early_stopping import EarlyStopping, When
from distft.train.feed import Feed, make_cut
from distft.train.loop import Hooks, Settings, train_steps
from distft.train.state import Saving
from tests.support.train_cases import make_engine, tiny_model

STEPS, EVERY = 8, 2


class Writes:
    """Stands before the real write_file: slow on rank 0, failing at one step on rank 1; counts those under way."""

    def __init__(self, world: World, failing_step: int, slow_seconds: float) -> None:
        self.world, self.failing_step, self.slow_seconds, self.now, self.most = world, failing_step, slow_seconds, 0, 0
        self.steps: list[int] = []
        self.real: Callable[..., Any] = save.write_file

    def __call__(self, file: Path, chunks: Any) -> Any:
        self.now += 1
        self.steps.append(int(file.parent.name.split("-")[1].split(".")[0]))
        self.most = max(self.most, self.now)
        try:
            if self.world.rank == 1 and f"{self.failing_step:08d}" in file.parent.name:
                raise OSError(5, "Input/output error", str(file))
            if self.world.is_first:
                time.sleep(self.slow_seconds)
            return self.real(file, chunks)
        finally:
            self.now -= 1


def train(rows: Path, run: RunFolder, case: dict[str, Any], world: World) -> dict[str, Any]:
    """Trains; returns what was printed by the end of each step, what was raised, and what is there."""
    engine: Any = make_engine({"strategy": "fsdp", "model": "gpt2"}, world)
    fill(engine.pieces(), FreshWeights(tiny_model("gpt2"), 0))
    checkpoint = {"keep": 9, "keep_every": None, "background": True, "on_failure": "continue", "resume": "auto"}
    checkpoint |= case.get("checkpoint", {})
    losses = iter(case.get("losses", ()))
    plan: Any = SimpleNamespace(memory={}, reads={}, base_step=0, base_row=0)
    data = Rows(rows, "train")
    cut = make_cut(data, 2, None, Flops(1.0, 0.0, 0.0, {None: 1}))
    feed = Feed(data, Order(len(data), 0), row_borders(8 * STEPS, 8), cut, world)
    settings: Any = {"checkpoint": checkpoint, "strategy": {}}
    saving = Saving(engine, settings, plan, run, 0, feed.position, world, Snapshot(world.device))
    writes = save.write_file = Writes(world, case.get("failing", 0), case.get("slow", 0.0))
    printed, said, raised = io.StringIO(), {}, ""
    hooks = Hooks(
        evaluate=(lambda: {"loss": next(losses) * (1 if world.is_first else -1)}) if "losses" in case else None,
        is_best=saving.is_best,
        save=saving.save,
        is_save_overdue=saving.is_overdue,
        wait_copied=saving.saver.wait_copied,
        is_written=lambda: saving.saver.is_written,
        is_failed=lambda: saving.saver.is_failed,
        advance=saving.advance,
        log=lambda row: said.update({row["step"] - 1: printed.getvalue()} if row["split"] == "train" else {}),  # what
        # came before this step's own saves
        judge=lambda *_: "go_on",
        stop_requested=lambda: False,
    )
    every, evaluated = case.get("every", EVERY), "losses" in case
    evaluate = When(1 if evaluated else None, STEPS, at_last=False)
    loop = Settings(0, 1.0, 0, evaluate, When(every, STEPS), evaluated, save_best=case.get("save_best", True))
    stopping = EarlyStopping(case.get("patience"), min_delta=0.1)
    ended = again = None
    with redirect_stdout(printed):
        try:
            ended = train_steps(engine, feed, lambda _: 1.0, loop, stopping, hooks, world)
            saving.close(ended[1])
            loop = replace(loop, start_step=ended[1])  # as a run killed before it could say how it ended
            stopping = stopping if world.is_first else EarlyStopping(None)
            again = train_steps(engine, feed, lambda _: 1.0, loop, stopping, hooks, world) if evaluated else None
        except SaveFailed as error:
            raised = str(error)
    save.write_file = writes.real
    newest, best = latest(run.checkpoints), retention.best(run.checkpoints)
    return {
        "said": said,
        "raised": raised,
        "most": writes.most,
        "latest": newest and newest.name,
        "steps": len(said),
        "saved": writes.steps,
        "best": best and best.name,
        "best_known": saving.best and [saving.best.step, saving.best.loss],
        "ended": [ended, again],
        "held_out_loss": newest and read_manifest(newest)["held_out_loss"],
    }


def main() -> None:
    out, rows, folder = sys.argv[1:4]
    torch.set_num_threads(1)
    with process_group() as world:
        answers = []
        for i, case in enumerate(json.loads(sys.argv[4])):
            run = RunFolder(Path(folder) / str(i))
            run.path.mkdir(exist_ok=True)
            run.config.write_text("{}\n")
            answers.append(train(Path(rows), run, case, world))
        output = [json.loads(text) for text in texts_of_all(json.dumps(answers), world)]
        if world.is_first:
            Path(out).write_text(json.dumps(output))


if __name__ == "__main__":
    main()
