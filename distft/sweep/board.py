"""What the user sees of a sweep: a line for each running job on a terminal, starts and ends elsewhere, then a table."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from distft.config.key import shown
from distft.launch.stages import launch_command
from distft.launchers.follow import Row
from distft.run import FINISHED, write_json
from distft.sweep.jobs import Job
from distft.trackers.terminal import duration

FILE = "sweep_status.json"


class SweepStatus:
    """What is known of a sweep's jobs; the file is never behind what was told here."""

    def __init__(self, folder: Path, command: str, swept: Sequence[str], sampler: str):
        self._file = folder / FILE
        self._about = {"name": folder.name, "command": command, "swept": list(swept), "sampler": sampler}
        self._swept = swept
        self._jobs: dict[str, dict[str, Any]] = {}

    def tell(self, jobs: Iterable[Job], **known: Any) -> None:
        """Reads the jobs' folders and writes the file; known: what is newer than they say."""
        self._jobs |= {job.name: entry(job, self._swept) | known for job in jobs}
        write_json(self._file, self._about | {"jobs": list(self._jobs.values())})

    def of(self, job: Job) -> dict[str, Any]:
        return self._jobs[job.name]

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """Returns an object for each job, in the order in which they came."""
        return list(self._jobs.values())

    def best(self) -> dict[str, Any] | None:
        """Returns the finished job of the lowest held-out loss."""
        measured = [job for job in self.jobs if job["objective"] is not None]
        return min(measured, key=lambda job: job["objective"], default=None)

    @property
    def is_complete(self) -> bool:
        return all(job["state"] in FINISHED for job in self.jobs)


def entry(job: Job, swept: Sequence[str]) -> dict[str, Any]:
    """Returns what the file says of a job; the objective is that of a finished one."""
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


def reason(error: dict[str, Any]) -> str:
    """Returns a failure in one line."""
    first, *_ = error["message"].strip().splitlines() or [""]
    return f"{error['type']}: {first}"


class Board:
    """Shows jobs while they run."""

    def __init__(self, console: Console):
        self._console = console
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

    def say(self, text: str) -> None:
        self._console.print(text)

    def wait(self, jobs: int) -> None:
        """Takes note of jobs that are submitted."""
        self._waiting += jobs

    def start(self, job: Job) -> None:
        """Shows that a job runs."""
        self._waiting -= 1
        self._began[job.name], self._steps[job.name] = time.monotonic(), job.run.read_plan().steps
        self._running[job.name] = "starting"
        if not self._live:
            self.say(f"{job.name}: running, {self._steps[job.name]} steps")

    def row(self, job: Job, row: Row) -> None:
        """Shows a row of a job's metrics.jsonl."""
        if row["split"] == "train":
            self._running[job.name] = f"step {row['step']}/{self._steps[job.name]}  loss {row['loss']:.4f}"

    def end(self, job: dict[str, Any]) -> None:
        """Says how a job ended, as sweep_status.json has it; nothing of one that was withdrawn."""
        name = job["run"]
        if self._running.pop(name, None) is None:
            self._waiting -= 1
        if job["state"] == "pending":
            return
        parts = [job["state"]]
        parts += [] if job["reason"] is None else [f"{job['reason']}, log {job['log']}"]
        parts += [] if job["objective"] is None else [f"held-out loss {job['objective']:.4f}"]
        parts += [duration(time.monotonic() - self._began[name])] if name in self._began else []
        self.say(f"{name}: {', '.join(parts)}")

    def _lines(self) -> Group:
        lines = [f"{name}  {text}" for name, text in self._running.items()]
        lines += [f"{self._waiting} waiting or starting"] if self._waiting else []
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))


def table(title: str, swept: Sequence[str], jobs: Sequence[dict[str, Any]]) -> Table:
    """Returns the one table that a sweep ends with, the lowest loss first; who is best is another question."""
    shape = Table(title=title, title_justify="left")
    for name in (*swept, "held-out loss", "state", "folder"):
        shape.add_column(name, overflow="fold")
    order = sorted(jobs, key=lambda job: (job["objective"] is None, job["objective"] or 0.0))
    for job in order:
        loss = job["objective"]
        values = [shown(job["values"][key]) for key in swept]
        shape.add_row(*values, "" if loss is None else f"{loss:.4f}", job["state"], job["run"])
    return shape


def failures(jobs: Sequence[dict[str, Any]]) -> list[str]:
    """Returns a line for each job that failed: its last error and its log."""
    failed = [job for job in jobs if job["state"] not in FINISHED and job["reason"]]
    return [f"{job['run']} failed: {job['reason']}\n    log {job['log']}" for job in failed]
