"""A sweep's folder, written by its contract without a sweep: sweep_status.json, and a run folder per job."""

import json
import math
import random
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from distft.report.sweep.jobs import Sweep, read_sweep
from distft.run import Plan, RunFolder, write_json
from tests.report.conftest import eval_row, train_row

KEYS = ("optimizer.lr", "train.global_batch_size", "seed")


@dataclass(frozen=True)
class Run:
    """What one job of the sweep came to."""

    values: dict[str, Any]
    losses: Sequence[float] = (2.5, 1.9, 1.5)  # held-out, every 4 steps from 0
    state: str = "completed"
    reason: str | None = None
    log: str | None = None
    objective: float | None = None
    seed: int = 0  # where it is not swept
    world: int = 2
    changes: dict[str, Any] = field(default_factory=dict)  # of each train row


def write_sweep(
    folder: Path, runs: Sequence[Run], swept: Sequence[str] = KEYS, name: str = "rates", sampler: str = "grid"
) -> Path:
    """Writes the folder as the launcher leaves it."""
    write_json(
        folder / "sweep_status.json",
        {
            "name": name,
            "command": f"python -m distft.launch --multirun name={name} {' '.join(f'{key}=...' for key in swept)}",
            "swept": list(swept),
            "sampler": sampler,
            "jobs": [entry_of(number, run) for number, run in enumerate(runs)],
        },
    )
    for number, run in enumerate(runs):
        if run.state != "pending":
            write_run(RunFolder(folder / f"{number:02d}"), run)
    return folder


def entry_of(number: int, run: Run) -> dict[str, Any]:
    words = [f"name={number:02d}", *(f"{key}={value}" for key, value in run.values.items())]
    return {
        "run": f"{number:02d}", "values": run.values, "state": run.state, "reason": run.reason, "log": run.log,
        "command": shlex.join(["python", "-m", "distft.launch", *words]), "objective": run.objective,
    }  # fmt: skip


def write_run(folder: RunFolder, run: Run) -> None:
    """Writes config.yaml, plan.json, metrics.jsonl and status.json of one run."""
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.config.write_text(yaml.safe_dump({"name": folder.path.name, "seed": run.values.get("seed", run.seed)}))
    steps = 4 * max(0, len(run.losses) - 1)
    folder.write_plan(
        Plan(
            nodes=1, processes_per_node=run.world, world=run.world, micro_batch_size=4, accumulation=1, steps=steps,
            rows=100, eval_rows=10, epochs=1.0, tokens=7200, estimated=False, parameters=1000, model_dir=None,
            tokenizer_dir=None, data_dir=None, memory={},
        )
    )  # fmt: skip
    rows = [train_row(step, **run.changes) for step in range(1, steps + 1)]
    rows += [eval_row(4 * number, loss) for number, loss in enumerate(run.losses)]
    rows.sort(key=lambda row: (row["step"], row["split"] == "eval"))
    folder.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    folder.write_status(state=run.state, step=steps)


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[..., Sweep]:
    """Gives `make_sweep(runs, swept=..., ...) -> Sweep`, of files in tmp_path/sweep."""

    def make(runs: Sequence[Run], *args: Any, **changes: Any) -> Sweep:
        return read_sweep(write_sweep(tmp_path / "sweep", runs, *args, **changes))

    return make


def of_seeds(lr: float, *objectives: float, first: int = 0) -> list[Run]:
    """Returns one run per objective, of seeds 0, 1, 2 ..."""
    return [
        Run({"optimizer.lr": lr, "seed": seed}, losses=(1000.0, objective))
        for seed, objective in enumerate(objectives, start=first)
    ]


def falling(lowest: float, evaluations: int = 9) -> list[float]:
    return [lowest + (3.4 - lowest) * math.exp(-0.8 * number) for number in range(evaluations)]


def large(seed: int = 1) -> tuple[list[Run], list[str]]:
    """Returns 60 runs over five keys, with long words, rates of 1e-5, failures and one that diverged."""
    chance = random.Random(seed)
    files = ["data/short.jsonl", "/shared/projects/languages/finnish-conversations-cleaned-2026.jsonl", "chat.jsonl"]
    runs = []
    for number in range(60):
        rate, batch, kind, file = (
            10 ** chance.uniform(-5, -2.5),
            chance.choice([8, 16, 32, 512]),
            *(chance.choice(words) for words in (["cosine", "warmup_stable_decay", "linear"], files)),
        )
        loss = 2 + 0.3 * abs(math.log10(rate) + 3.7) + 0.02 * math.log2(batch) + 0.1 * (file == files[0])
        values = {"optimizer.lr": rate, "train.global_batch_size": batch, "schedule": kind, "data.train": file}
        values["optimizer.weight_decay"] = chance.choice([0, 1e-5, 0.1, None])
        state = "failed" if number % 9 == 5 else "stopped_early" if number % 7 == 3 else "completed"
        last = 2 if state == "failed" else 9
        losses = falling(900.0 if number == 30 else loss + chance.gauss(0, 0.02))[:last]
        reason = None
        if state == "failed":
            reason = (
                "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
                if number % 2
                else "exit code -9"
            )
        log = f"/runs/rates/{number:02d}/logs/attempt-1/rank-0.log" if state == "failed" else None
        runs.append(Run(values, losses, state, reason, log))
    return runs, list(runs[0].values)


def grid(seed: int = 2) -> list[Run]:
    """Returns 4 x 2 settings of three seeds."""
    chance = random.Random(seed)
    return [
        Run({"optimizer.lr": rate, "train.global_batch_size": batch, "seed": number}, falling(
            2 + 0.2 * abs(math.log10(rate) + 3.8) + 0.01 * math.log2(batch) + chance.gauss(0, 0.01)
        ))
        for rate in (1e-5, 1e-4, 2e-4, 3e-3) for batch in (16, 64) for number in (0, 1, 2)
    ]  # fmt: skip
