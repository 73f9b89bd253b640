"""RUNS_DIR/<sweep>/sweep_status.json: every job with its state, replaced whole as states change."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from distft.run import FINISHED, write_json
from distft.stages import launch_command
from distft.sweep.jobs import Job

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
