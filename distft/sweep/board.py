"""Progress of a sweep: sweep_status.json, live lines on a terminal or start and end messages, and a final table."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from distft.config.key import shown
from distft.launch.stages import launch_command
from distft.launchers.follow import Row
from distft.run import FINISHED, State, write_json
from distft.sweep.jobs import Job
from distft.tasks.selection import BY_LOSS, Selection
from distft.trackers.terminal import duration

FILE = "sweep_status.json"


class Entry(TypedDict):
    """One job in the file. values: of the swept keys. objective: of a finished job alone."""

    run: str
    values: Mapping[str, Any]
    command: str
    state: State
    reason: str | None
    log: str | None
    objective: float | None


class SweepStatus:
    """The state of a sweep's jobs, in memory and in sweep_status.json."""

    def __init__(self, folder: Path, command: str, swept: Sequence[str], sampler: str, selection: Selection = BY_LOSS):
        """selection: of every job: its objective is the best value of this metric."""
        self._file = folder / FILE
        self._about = {"name": folder.name, "command": command, "swept": list(swept), "sampler": sampler}
        self._about |= asdict(selection)
        self.selection = selection
        self._swept = swept
        self._jobs: dict[str, Entry] = {}

    def update(self, jobs: Iterable[Job], state: State | None = None) -> None:
        """Reads the jobs from their folders and writes the file. state: a newer one of these jobs than theirs."""
        for job in jobs:
            self._jobs[job.name] = entry(job, self._swept)
            if state:
                self._jobs[job.name]["state"] = state
        write_json(self._file, self._about | {"jobs": list(self._jobs.values())})

    def of(self, job: Job) -> Entry:
        return self._jobs[job.name]

    @property
    def jobs(self) -> list[Entry]:
        """The entries of the file, in launch order."""
        return list(self._jobs.values())

    def best(self) -> Entry | None:
        """Returns the finished job with the best objective."""
        measured = [(job["objective"], job) for job in self.jobs if job["objective"] is not None]
        return min(measured, key=lambda each: self.selection.sign * each[0], default=(None, None))[1]

    @property
    def is_complete(self) -> bool:
        return all(job["state"] in FINISHED for job in self.jobs)


def entry(job: Job, swept: Sequence[str]) -> Entry:
    """Returns the entry of a job in the file; only a finished job has an objective."""
    status = job.run.read_status()
    error, state = status["error"], status["state"] or "pending"
    attempt_log = str(job.run.rank_log(status["attempt"], 0)) if status["attempt"] else None
    return {
        "run": job.name,
        "values": {key: job.value(key) for key in swept},
        "command": launch_command(job.overrides),
        "state": state,
        "reason": reason(error) if error else None,
        "log": (error or {}).get("log") or attempt_log,
        "objective": job.objective if state in FINISHED else None,
    }


def reason(error: Mapping[str, str]) -> str:
    """Formats an error in one line."""
    first, *_ = error["message"].strip().splitlines() or [""]
    return f"{error['type']}: {first}"


class Board:
    """Shows the jobs that are running."""

    def __init__(self, console: Console, selection: Selection = BY_LOSS):
        self._console = console
        self._name = selection.name
        self._running: dict[str, str] = {}
        self._steps: dict[str, int] = {}
        self._began: dict[str, float] = {}
        self._waiting = 0
        self._live = Live(get_renderable=self._lines, console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> "Board":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def print(self, text: str) -> None:
        self._console.print(text)

    def wait(self, jobs: int) -> None:
        """Adds a number of submitted jobs."""
        self._waiting += jobs

    def start(self, job: Job) -> None:
        """Shows that a job has started."""
        self._waiting -= 1
        self._began[job.name], self._steps[job.name] = time.monotonic(), job.run.read_plan().steps
        self._running[job.name] = "starting"
        if not self._live:
            self.print(f"{job.name}: running, {self._steps[job.name]} steps")

    def row(self, job: Job, row: Row) -> None:
        """Shows a row of a job's metrics.jsonl."""
        if row["split"] == "train":
            self._running[job.name] = f"step {row['step']}/{self._steps[job.name]}  loss {row['loss']:.4f}"

    def end(self, job: Entry) -> None:
        """Prints how a job ended; nothing for a cancelled one."""
        name = job["run"]
        if self._running.pop(name, None) is None:
            self._waiting -= 1
        if job["state"] == "pending":
            return
        parts = [job["state"]]
        parts += [] if job["reason"] is None else [f"{job['reason']}, log {job['log']}"]
        parts += [] if job["objective"] is None else [f"{self._name} {job['objective']:.4f}"]
        parts += [duration(time.monotonic() - self._began[name])] if name in self._began else []
        self.print(f"{name}: {', '.join(parts)}")

    def _lines(self) -> Group:
        lines = [f"{name}  {text}" for name, text in self._running.items()]
        lines += [f"{self._waiting} waiting or starting"] if self._waiting else []
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))


def table(title: str, swept: Sequence[str], jobs: Sequence[Entry], selection: Selection = BY_LOSS) -> Table:
    """Returns the final table of a sweep, best first; settings are ranked by `distft.report.sweep`."""
    shape = Table(title=title, title_justify="left")
    for name in (*swept, selection.name, "state", "folder"):
        shape.add_column(name, overflow="fold")
    order = sorted(jobs, key=lambda job: (job["objective"] is None, selection.sign * (job["objective"] or 0.0)))
    for job in order:
        value = job["objective"]
        values = [shown(job["values"][key]) for key in swept]
        shape.add_row(*values, "" if value is None else f"{value:.4f}", job["state"], job["run"])
    return shape


def failures(jobs: Sequence[Entry]) -> list[str]:
    """Returns a line for each failed job with its last error and its log."""
    failed = [job for job in jobs if job["state"] not in FINISHED and job["reason"]]
    return [f"{job['run']} failed: {job['reason']}\n    log {job['log']}" for job in failed]
