"""What the files of a run say about its current state, on any machine that shares the run folders."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

from distft.run import MetricsRow, RunFolder, Status, read_json, read_row
from distft.runtime.heartbeat import WORK
from distft.runtime.logs import last_lines

_ROWS = 200  # read from the end of a file
_STEPS = 20  # over which a speed is the mean
SILENT_SECONDS = 120.0


@dataclass(frozen=True)
class Slowest:
    """The rank with the most compute seconds per step."""

    rank: int
    host: str
    phase: str  # with the largest distance to the other ranks
    ratio: float  # of its seconds in that phase to the median of all ranks (the lower median)


@dataclass(frozen=True)
class Facts:
    """The current state of a run."""

    run: RunFolder
    status: Status
    steps: int
    model: str  # name of what is loaded
    train: list[MetricsRow]
    held_out: MetricsRow | None
    warnings: list[MetricsRow]
    restarts: list[MetricsRow]  # lines of restarts.jsonl
    slowest: Slowest | None
    ranks: Sequence[Mapping[str, Any]]  # of health.json
    checkpoint: str | None
    checkpoint_age_seconds: float | None
    goodput: Mapping[str, Any] | None  # content of goodput.json

    @property
    def state(self) -> str:
        return str(self.status["state"])

    @property
    def silent_seconds(self) -> float:
        """Seconds since a running run wrote status.json; 0 up to the limit."""
        silent = time.time() - self.status.get("time", time.time())
        return silent if self.state == "running" and silent > SILENT_SECONDS else 0.0

    def mean(self, key: str) -> float | None:
        """Returns the mean of a number over the last steps; None where they lack it."""
        values = [row[key] for row in self.train[-_STEPS:] if row.get(key) is not None]
        return sum(values) / len(values) if values else None

    def share(self, phase: str) -> float | None:
        """Returns the share of a phase in the seconds of the last steps, on rank 0."""
        rows = [row for row in self.train[-_STEPS:] if "phases" in row]
        seconds = sum(row["seconds"] for row in rows)
        return sum(row["phases"].get(phase, 0.0) for row in rows) / seconds if seconds else None


def find_runs(folder: Path) -> list[RunFolder]:
    """Returns the runs in a folder and in its sweeps, the last written first."""
    found = [file.parent for pattern in ("*/status.json", "*/*/status.json") for file in folder.glob(pattern)]
    runs = [RunFolder(path) for path in found if (path / "plan.json").is_file()]
    inside = {run.path for run in runs}
    runs = [run for run in runs if run.path.parent not in inside]  # evaluations are runs inside a run
    return sorted(runs, key=lambda run: run.status.stat().st_mtime, reverse=True)


def facts(run: RunFolder, goodput: Mapping[str, Any] | None = None) -> Facts:
    """Returns the state of a run, without files that are missing or half written.

    goodput: up to now; None: from goodput.json, written at the end of the last attempt.
    """
    rows = list(_rows(run.metrics, _ROWS))
    health = _json(run.health) or {}
    status = run.read_status()
    ranks = health.get("ranks", []) if health.get("attempt") == status["attempt"] else []
    plan = _json(run.plan) or {}
    latest = run.checkpoints / "latest"
    is_there = latest.is_symlink()
    return Facts(
        run=run,
        status=status,
        steps=plan.get("steps", 0),
        model=str(plan.get("model_name") or ""),
        train=[row for row in rows if row.get("split") == "train"],
        held_out=next((row for row in reversed(rows) if row.get("split") == "eval"), None),
        warnings=[row for row in rows if row.get("split") == "warning"],
        restarts=list(_rows(run.path / "restarts.jsonl", _ROWS)),
        slowest=slowest_of(ranks),
        ranks=ranks,
        checkpoint=latest.readlink().name if is_there else None,
        checkpoint_age_seconds=time.time() - latest.lstat().st_mtime if is_there else None,
        goodput=goodput or _json(run.goodput),
    )


def slowest_of(ranks: Sequence[Mapping[str, Any]]) -> Slowest | None:
    """Returns the rank with the most compute seconds per step; None where they are unknown, or for one rank."""
    spent = {row["rank"]: row["seconds_a_step"] for row in ranks if row.get("seconds_a_step")}
    if len(spent) < 2:
        return None
    rank = max(spent, key=lambda each: sum(spent[each].get(phase, 0.0) for phase in WORK))
    usual = {phase: median_low(seconds.get(phase, 0.0) for seconds in spent.values()) for phase in WORK}
    phase = max(WORK, key=lambda each: spent[rank].get(each, 0.0) - usual[each])
    ratio = spent[rank].get(phase, 0.0) / usual[phase] if usual[phase] else 1.0
    host = next(row["host"] for row in ranks if row["rank"] == rank)
    return Slowest(rank, host, phase, ratio)


def _rows(file: Path, count: int) -> Iterator[MetricsRow]:
    for line in last_lines(file, count):
        try:
            row = read_row(line)
        except ValueError:  # truncated at its start, or being written
            continue
        if isinstance(row, dict):
            yield row


def _json(file: Path) -> Mapping[str, Any] | None:
    try:
        found = read_json(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
