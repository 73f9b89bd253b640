"""Writes sweep.csv: one row per run, every number in full, for whoever wants to draw it otherwise.

Trap: a spreadsheet runs a cell that begins with = + - or @; such text gets an apostrophe before it.
"""

import csv
from pathlib import Path
from typing import Any

from distft.report.sweep.jobs import Job, Sweep
from distft.report.sweep.values import as_number, value_text

MEASURED = ("objective", "objective_step", "train_loss", "tokens", "process_hours", "peak_memory_gib")


def write_table(sweep: Sweep, path: Path) -> None:
    keys = [key for key in sweep.swept if key != "seed"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*keys, "seed", "state", *MEASURED, "run", "reason"])
        for job in sweep.jobs:
            writer.writerow([cell(value) for value in cells(job, keys)])


def cells(job: Job, keys: list[str]) -> list[Any]:
    measured = [getattr(job, name) for name in MEASURED]
    return [*(plain(job.values.get(key)) for key in keys), job.seed, job.state, *measured, job.folder, job.reason]


def plain(value: Any) -> Any:
    """Returns a swept value unrounded; null, true and lists as a user would type them."""
    return value if isinstance(value, str | float) else value_text(value)


def cell(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") and as_number(value) is None:
        return f"'{value}"
    return value
