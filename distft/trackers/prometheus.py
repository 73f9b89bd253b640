"""Prometheus metrics of a run in a text file for node_exporter's textfile collector.

The file is replaced atomically, so that a scrape is consistent. No port is opened.
"""

import os
import time
from collections import deque
from pathlib import Path

from distft.goodput import goodput_of
from distft.run import RunFolder
from distft.tasks.shown import all_metrics, metric_names
from distft.trackers.contract import Row

_STEPS = 20  # over which rates are a mean
_TIMES_COST = 100  # goodput reads the whole run, so it is computed at most 1 % of the time
_STATES = ("running", "completed", "stopped_early", "preempted", "failed")
_HELP = {
    "step": "Optimizer steps done.",
    "steps": "Optimizer steps of the whole run.",
    "loss": "Training loss per unit of the task, such as nats per target token.",
    "held_out_loss": "The same of held-out rows.",
    **{f"held_out_{name}": f"Held-out {name}." for name in all_metrics()},
    "grad_norm": "Gradient norm before clipping.",
    "tokens_per_second": "Real tokens per second, all processes together.",
    "mfu": "Share of the devices' peak that the model's operations used.",
    "data_wait_ratio": "Share of step time spent waiting for data.",
    "goodput": "Share of the run's time, over all attempts, spent in steps whose work was kept.",
    "checkpoint_age_seconds": "Seconds since the newest checkpoint.",
    "updated_timestamp_seconds": "When this file was written.",
    "state": "1 for the state that the run is in.",
}


class Prometheus:
    """Writes FOLDER/distft_NAME.prom, at most once in `every_seconds`."""

    def __init__(self, folder: str | None = None, every_seconds: float = 10.0) -> None:
        """folder: the one given to node_exporter as --collector.textfile.directory; None: the run folder."""
        self._folder = folder
        self._every_seconds = every_seconds
        self._recent: deque[Row] = deque(maxlen=_STEPS)
        self._held_out: Row | None = None
        self._due = self._goodput_due = 0.0
        self._goodput: float | None = None

    def start(self, run: RunFolder) -> None:
        folder = Path(self._folder).expanduser() if self._folder else run.path
        folder.mkdir(parents=True, exist_ok=True)
        self._run, self._steps = run, run.read_plan().steps
        self._file = folder / f"distft_{run.path.name}.prom"
        self._write("running")

    def log(self, row: Row) -> None:
        if row["split"] == "train":
            self._recent.append(row)
        elif row["split"] == "eval":
            self._held_out = row
        if time.monotonic() >= self._due:
            self._write("running")

    def finish(self, state: str) -> None:
        self._write(state)

    def _write(self, state: str) -> None:
        self._due = time.monotonic() + self._every_seconds
        if time.monotonic() >= self._goodput_due or state != "running":
            self._update_goodput()
        new = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        new.write_text(exposition(self._run.path.name, self._values(), state))
        os.replace(new, self._file)

    def _update_goodput(self) -> None:
        began = time.monotonic()
        found = goodput_of(self._run)
        self._goodput = found["goodput"] if found else None
        self._goodput_due = time.monotonic() + _TIMES_COST * (time.monotonic() - began)

    def _values(self) -> dict[str, float | None]:
        last = self._recent[-1] if self._recent else {}
        seconds = sum(row["seconds"] for row in self._recent)
        waited = sum(row.get("phases", {}).get("data", 0.0) for row in self._recent)
        return {
            "step": last.get("step", 0),
            "steps": self._steps,
            "loss": last.get("loss"),
            "held_out_loss": self._held_out["loss"] if self._held_out else None,
            **{
                f"held_out_{name}": self._held_out[name]
                for name in metric_names(self._held_out or {})
                if self._held_out
            },
            "grad_norm": last.get("grad_norm"),
            "tokens_per_second": sum(row["tokens"] for row in self._recent) / seconds if seconds else None,
            "mfu": last.get("mfu"),
            "data_wait_ratio": waited / seconds if seconds else None,
            "goodput": self._goodput,
            "checkpoint_age_seconds": checkpoint_age(self._run),
            "updated_timestamp_seconds": time.time(),
        }


def checkpoint_age(run: RunFolder) -> float | None:
    """Returns the seconds since the newest checkpoint was committed; None without one."""
    try:
        return max(0.0, time.time() - (run.checkpoints / "latest").lstat().st_mtime)
    except OSError:
        return None


def exposition(run: str, values: dict[str, float | None], state: str) -> str:
    """Returns the values in Prometheus' text format, without those that are unknown."""
    name = run.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    lines = []
    for key, value in values.items():
        if value is not None:
            lines += [*_about(key), f'distft_{key}{{run="{name}"}} {float(value)!r}'.replace("inf", "Inf")]
    lines += _about("state")
    lines += [f'distft_state{{run="{name}",state="{each}"}} {int(each == state)}' for each in _STATES]
    return "\n".join(lines) + "\n"


def _about(key: str) -> list[str]:
    return [f"# HELP distft_{key} {_HELP[key]}", f"# TYPE distft_{key} gauge"]
