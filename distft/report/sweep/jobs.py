"""Reads a sweep's folder: sweep_status.json, and of each run what its own files hold.

Trap: a run may be waiting, half done or gone; what is not there is None, never zero.
"""

import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distft.config.errors import ConfigError
from distft.config.nearest import nearest
from distft.paths import absolute
from distft.report.curves import points
from distft.run import FINISHED, RunFolder, read_json

STATUS = "sweep_status.json"


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    folder: str
    values: dict[str, Any]  # of the swept keys
    seed: int | None
    command: str
    state: str
    reason: str | None  # the last line of its error
    log: str | None
    objective: float | None  # lowest held-out loss so far
    objective_step: int | None
    train_loss: float | None  # of the last step
    tokens: int
    process_hours: float
    peak_memory_gib: float | None
    evals: list[tuple[int, float]]  # step, held-out loss
    eval_tokens: int | None  # target tokens of the held-out rows

    @property
    def counts(self) -> bool:
        """True when it is ranked: it came to its end and was measured; a part of a run is no fair comparison."""
        return self.state in FINISHED and self.objective is not None

    @property
    def loss(self) -> float:
        """The objective of a run that has one."""
        assert self.objective is not None, self.folder
        return self.objective


@dataclass(frozen=True)
class Sweep:
    """All runs of one sweep, in the order in which they were launched."""

    name: str
    command: str
    sampler: str
    swept: list[str]
    jobs: list[Job]


def find_sweep(value: str) -> Path:
    """Returns the sweep's folder at `value`; ConfigError with what to give instead when there is none."""
    folder = absolute(value)
    if (folder / STATUS).is_file():
        return folder
    hint = ""
    if RunFolder(folder).config.is_file():
        hint = f" It is a run. Try: run={value}"
    elif folder.parent.is_dir():
        near = nearest(folder.name, [path.parent.name for path in folder.parent.glob(f"*/{STATUS}")])
        hint = f" Try: {folder.parent / near}" if near else ""
    raise ConfigError([f"sweep={value}: holds no sweep ({STATUS}).{hint}"])


def read_sweep(folder: Path) -> Sweep:
    """Returns the sweep as its files tell it now."""
    try:
        status = read_json(folder / STATUS)
        return Sweep(
            name=str(status["name"]),
            command=status.get("command") or "",
            sampler=status.get("sampler") or "grid",
            swept=list(status["swept"]),
            jobs=[read_job(folder, entry) for entry in status["jobs"]],
        )
    except (json.JSONDecodeError, KeyError) as error:
        raise ConfigError([f"sweep={folder}: {STATUS} is damaged ({type(error).__name__}: {error})"]) from error


def read_job(folder: Path, entry: dict[str, Any]) -> Job:
    """Returns one run, from its line in sweep_status.json and its own folder."""
    run = RunFolder(folder / entry["run"])
    rows = list(run.read_metrics())
    train = [row for row in rows if row["split"] == "train"]
    held_out = [row for row in rows if row["split"] == "eval"]
    steps, losses = points(held_out, "loss")
    objective, step = lowest(list(zip(map(int, steps), map(float, losses), strict=True)), entry.get("objective"))
    _, train_losses = points(train, "loss")
    _, peaks = points(train, "peak_memory_gib")
    seconds = sum(row.get("seconds") or 0 for row in train)
    world = run.read_plan().world if run.plan.is_file() else 1
    return Job(
        folder=entry["run"],
        values=entry.get("values") or {},
        seed=seed_of(run, entry),
        command=entry.get("command") or shlex.join((run.read_commands() or [[]])[-1]),
        state=entry.get("state") or "pending",
        reason=entry.get("reason"),
        log=entry.get("log"),
        objective=objective,
        objective_step=step,
        train_loss=float(train_losses[-1]) if len(train_losses) else None,
        tokens=sum(row.get("tokens") or 0 for row in train),
        process_hours=seconds * world / 3600,
        peak_memory_gib=float(peaks.max()) if len(peaks) else None,
        evals=list(zip(map(int, steps), map(float, losses), strict=True)),
        eval_tokens=held_out[-1].get("target_tokens") if held_out else None,
    )


def lowest(evals: list[tuple[int, float]], told: float | None) -> tuple[float | None, int | None]:
    """Returns the objective and its step: the one that was told, else the lowest of the held-out losses."""
    if told is not None and math.isfinite(told):
        return told, next((step for step, loss in evals if math.isclose(loss, told)), None)
    step, loss = min(evals, key=lambda pair: pair[1], default=(None, None))
    return loss, step


def seed_of(run: RunFolder, entry: dict[str, Any]) -> int | None:
    seed = (entry.get("values") or {}).get("seed")
    if seed is None and run.config.is_file():
        seed = run.read_config().get("seed")
    return None if seed is None else int(seed)
