"""What a run folder tells of its run, from a few small files and the end of metrics.jsonl."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

from distft.run import RunFolder, read_json, read_row
from distft.runtime.heartbeat import WORK
from distft.runtime.logs import last_lines

Row = dict[str, Any]
_ROWS = 200  # from the end
_STEPS = 20  # that a speed is a mean of
_SILENT_SECONDS = 120.0


@dataclass(frozen=True)
class Slowest:
    """The rank that others wait for, by the seconds that it works in a step."""

    rank: int
    host: str
    phase: str  # in which it is furthest from the others
    ratio: float  # of its seconds there to the median rank's, of two ranks to the faster one's


@dataclass(frozen=True)
class Facts:
    """How a run stands."""

    run: RunFolder
    status: dict[str, Any]
    steps: int
    model: str  # name of what is loaded
    train: list[Row]
    held_out: Row | None
    warnings: list[Row]
    restarts: list[Row]
    slowest: Slowest | None
    ranks: list[Row]
    checkpoint: str | None
    checkpoint_age_seconds: float | None
    goodput: dict[str, Any] | None  # what goodput.json says

    @property
    def state(self) -> str:
        return str(self.status["state"])

    @property
    def silent_seconds(self) -> float:
        """Seconds since status.json was written, by a run that should be writing it."""
        silent = time.time() - self.status.get("time", time.time())
        return silent if self.state == "running" and silent > _SILENT_SECONDS else 0.0

    def mean(self, key: str) -> float | None:
        """Returns a mean over the last steps, None where they have no such number."""
        values = [row[key] for row in self.train[-_STEPS:] if row.get(key) is not None]
        return sum(values) / len(values) if values else None

    def share(self, phase: str) -> float | None:
        """Returns the share of the last steps' seconds that went into a phase, as the first rank saw it."""
        rows = [row for row in self.train[-_STEPS:] if "phases" in row]
        seconds = sum(row["seconds"] for row in rows)
        return sum(row["phases"].get(phase, 0.0) for row in rows) / seconds if seconds else None


def find_runs(folder: Path) -> list[RunFolder]:
    """Returns the runs in a folder and in the sweeps in it, the one that was written last first."""
    found = [file.parent for pattern in ("*/status.json", "*/*/status.json") for file in folder.glob(pattern)]
    runs = [RunFolder(path) for path in found if (path / "plan.json").is_file()]
    inside = {run.path for run in runs}
    runs = [run for run in runs if run.path.parent not in inside]  # evaluations are runs in a run
    return sorted(runs, key=lambda run: run.status.stat().st_mtime, reverse=True)


def facts(run: RunFolder, goodput: dict[str, Any] | None = None) -> Facts:
    """Returns what is known; what is missing or half written is left out.

    goodput: newer than that of goodput.json, which is of the last attempt that has ended.
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


def slowest_of(ranks: list[Row]) -> Slowest | None:
    """Returns the rank with the most work of its own in a step; None where it is not known, or there is one rank."""
    spent = {row["rank"]: row["seconds_a_step"] for row in ranks if row.get("seconds_a_step")}
    if len(spent) < 2:
        return None
    rank = max(spent, key=lambda each: sum(spent[each].get(phase, 0.0) for phase in WORK))
    usual = {phase: median_low(seconds.get(phase, 0.0) for seconds in spent.values()) for phase in WORK}
    phase = max(WORK, key=lambda each: spent[rank].get(each, 0.0) - usual[each])
    ratio = spent[rank].get(phase, 0.0) / usual[phase] if usual[phase] else 1.0
    host = next(row["host"] for row in ranks if row["rank"] == rank)
    return Slowest(rank, host, phase, ratio)


def _rows(file: Path, count: int) -> Iterator[Row]:
    for line in last_lines(file, count):
        try:
            row = read_row(line)
        except ValueError:  # cut off at its beginning, or being written
            continue
        if isinstance(row, dict):
            yield row


def _json(file: Path) -> dict[str, Any] | None:
    try:
        found = read_json(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
