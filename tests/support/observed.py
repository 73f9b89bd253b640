"""Trains frozen runs on real ranks and records the inputs of each step.

`python -m tests.support.observed OUT CASES.json`

Each case is composed, prepared, planned and frozen as by a launch, and trained by the worker's own `train`. Its inputs
are recorded at the model's forward, at replica checks and at saves.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

from distft import worker
from distft.checkpoint.save import Saver
from distft.compat.transformers import attention_of
from distft.config import compose, read_config
from distft.data.shards import SHARD_BYTES, ShardWriter
from distft.data.stage import prepare_data
from distft.launch import stages
from distft.launch.stages import freeze, plan_run, with_name
from distft.run import RunFolder
from distft.runtime import heartbeat
from distft.runtime.errors import NonFinite
from distft.runtime.process_group import World, from_first, process_group, texts_of_all
from distft.strategies.engine import Objective
from distft.strategies.fsdp import ShardedEngine
from distft.strategies.zero import ZeroEngine
from distft.train import loop
from distft.worker import make_engine, train

ENGINES = (ShardedEngine, ZeroEngine)


def frozen(overrides: list[str]) -> Path:
    """Returns the run folder that a launch with these overrides would submit."""
    config = compose(overrides)
    run, config = with_name(config)
    prepare_data(config)
    freeze(run, config, plan_run(run, config), overrides)
    return run.path


@contextmanager
def put(places: dict[tuple[Any, str], Callable[..., Any]]) -> Iterator[None]:
    """Replaces functions within the block."""
    before = {(where, name): vars(where)[name] for where, name in places}
    for (where, name), function in places.items():
        setattr(where, name, function)
    try:
        yield
    finally:
        for (where, name), function in before.items():
            setattr(where, name, function)


class Watch:
    """Records forwards, computed layers, replica checks and saves of this process."""

    def __init__(self, run: RunFolder, stop_at: int | None = None, spoil: tuple[int, ...] = ()) -> None:
        """stop_at: a step within which the run gets a stop request. spoil: steps whose loss is NaN once."""
        self.run, self.stop_at, self.spoilt = run, stop_at, set(spoil)
        self.step, self.in_step = 0, False
        self.seen: dict[str, list[Any]] = {"forwards": [], "mlps": [], "looks": [], "saves": []}

    @contextmanager
    def watching(self) -> Iterator[dict[str, list[Any]]]:
        begin_step, train_step = heartbeat.begin_step, loop.train_step
        forward, mlp, start = Objective.forward, GPT2MLP.forward, Saver.start
        looks = {kind: kind.fingerprint for kind in ENGINES}

        def begun(step: int) -> None:
            self.spoilt.discard(self.step)
            self.step = step
            if step == self.stop_at:
                self.run.stop.touch()
            begin_step(step)

        def stepped(*given: Any, **with_name: Any) -> Any:
            self.in_step = True
            result = train_step(*given, **with_name)
            self.in_step = False
            return result

        def forwarded(objective: Objective, batch: Any, loss: Any = None) -> Any:
            mode = "probe" if loss else "eval"
            if objective.training:
                mode = "step" if self.in_step else "longest"
            reported = {"step": self.step, "mode": mode, "seed": torch.initial_seed(), "lengths": list(batch.lengths)}
            self.seen["forwards"].append(reported)
            self.seen["attention"] = [attention_of(cast(Any, objective.model))]
            value, sums = forward(objective, batch, loss)
            return (value * float("nan") if mode == "step" and self.step in self.spoilt else value), sums

        def computed(layer: Any, hidden: Any) -> Any:
            self.seen["mlps"].append(self.step if self.in_step else 0)
            return mlp(layer, hidden)

        def looked(engine: Any) -> Any:
            self.seen["looks"].append(self.step)
            return looks[type(engine)](engine)

        def started(saver: Saver, engine: Any, step: int, *given: Any, **with_name: Any) -> None:
            self.seen["saves"].append({"step": step, "in_background": saver.writer is not None})
            start(saver, engine, step, *given, **with_name)

        places = {(heartbeat, "begin_step"): begun, (loop, "train_step"): stepped, (Objective, "forward"): forwarded}
        places |= {(GPT2MLP, "forward"): computed, (Saver, "start"): started}
        with put(places | {(kind, "fingerprint"): looked for kind in ENGINES}):
            yield self.seen


def work(case: dict[str, Any], world: World) -> dict[str, Any]:
    """Starts or continues one run; returns the records of each rank, and the error that ended the run.

    case: its `overrides` and the arguments of Watch; `built`: records the layers without training; `shard_bytes`: of
    the prepared rows.
    """
    shards = ShardWriter.__init__.__defaults__
    ShardWriter.__init__.__defaults__ = (case.get("shard_bytes", SHARD_BYTES),)
    run = RunFolder(Path(from_first(str(frozen(case["overrides"])) if world.is_first else "", world)))
    ShardWriter.__init__.__defaults__ = shards
    reported: dict[str, Any] = {"run": str(run.path), "plan": asdict(run.read_plan())}
    if case.get("built"):
        engine = make_engine(read_config(run), run.read_plan(), world)
        forwards = [block.forward for block in engine.objective.blocks]
        return reported | {"compiled": [hasattr(each, "_torchdynamo_orig_callable") for each in forwards]}
    error = ""
    with Watch(run, case.get("stop_at"), tuple(case.get("spoil", ()))).watching() as seen:
        try:
            train(run, run.read_status()["attempt"], world)
        except NonFinite as failure:  # every process has it
            error = str(failure)
    ranks = [json.loads(text) for text in texts_of_all(json.dumps(seen), world)]
    reported |= {"status": run.read_status(), "after": asdict(run.read_plan())}
    return reported | {"ranks": ranks, "error": error}


def main() -> None:
    out, cases = sys.argv[1:]
    torch.set_num_threads(1)
    once = {(worker, "peak_of"): cache(worker.peak_of), (stages, "describe"): cache(stages.describe)}  # of a machine
    with process_group() as world, put(once):
        answers = {name: work(case, world) for name, case in json.loads(Path(cases).read_text()).items()}
        if world.is_first:
            Path(out).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
