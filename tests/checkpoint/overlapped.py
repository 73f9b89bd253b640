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
from distft.config import Config
from distft.data.order import Order, row_borders
from distft.data.shards import Rows
from distft.models.flops import Flops
from distft.models.init import FreshWeights
from distft.run import RunFolder
from distft.runtime.process_group import World, process_group, texts_of_all
from distft.tensors.streaming import fill
from distft.train.early_stopping import EarlyStopping, Evaluator, When
from distft.train.feed import Feed, make_cut
from distft.train.health import Monitor, NonFinitePolicy, Stragglers
from distft.train.loop import Loop, Settings
from distft.worker import Attempt, make_saver
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
    checkpoint = {"keep": 9, "every_minutes": None, "background": True} | case.get("checkpoint", {})
    losses = iter(case.get("losses", ()))
    plan: Any = SimpleNamespace(memory={}, reads={}, base_step=0, base_row=0)
    data = Rows(rows, "train")
    cut = make_cut(data, 2, None, Flops(1.0, 0.0, 0.0, {None: 1}))
    feed = Feed(data, Order(len(data), 0), row_borders(8 * STEPS, 8), cut, world)
    attempt = Attempt(run, 1, Config.of({"checkpoint": checkpoint}), plan, world)
    saver = make_saver(attempt, engine, feed.position, 0, Snapshot(world.device))
    writes = save.write_file = Writes(world, case.get("failing", 0), case.get("slow", 0.0))
    printed, said, raised = io.StringIO(), {}, ""

    def measure() -> dict[str, Any]:
        return {"loss": next(losses) * (1 if world.is_first else -1)}

    def log(row: dict[str, Any]) -> None:  # before this step's own saves
        said.update({row["step"] - 1: printed.getvalue()} if row["split"] == "train" else {})

    every, evaluated = case.get("every", EVERY), "losses" in case
    stopping = EarlyStopping(case.get("patience"), min_delta=0.1)
    when = When(1 if evaluated else None, STEPS, at_last=False)
    evaluator = Evaluator(measure if evaluated else None, when, evaluated, stopping)
    settings = Settings(0, 1.0, 0, When(every, STEPS), save_best=case.get("save_best", True))
    hosts = [""] * world.size
    monitor = Monitor(run, plan, feed, 0, engine, NonFinitePolicy(), log, None, Stragglers(hosts))
    loop = Loop(engine, feed, lambda _: 1.0, settings, saver, monitor, evaluator, log, lambda: False, world)
    ended = again = None
    with redirect_stdout(printed):
        try:
            end = loop.run()
            ended = [end.state, end.step]
            saver.close(end.step)
            if evaluated:  # as a run that was killed before it could write how it ended
                stopping = stopping if world.is_first else EarlyStopping(None)
                evaluator = replace(evaluator, stopping=stopping)
                settings = replace(settings, start_step=end.step)
                end = replace(loop, settings=settings, evaluator=evaluator).run()
                again = [end.state, end.step]
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
        "best_known": saver.best and [saver.best.step, saver.best.value],
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
