"""Queries of SLURM through its command line programs: sinfo, squeue, scontrol, scancel.

Trap: many clusters have no accounting, so sacct is not used; and SLURM forgets an ended job after minutes.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

_SECONDS_TO_ANSWER = 30  # a program itself gives up after 20 s when the controller is down
SECONDS_OF_COMMAND, SECONDS_OF_JOB = 60.0, 600.0  # how long a user's command, and a job, retry
_SECONDS_BETWEEN_QUESTIONS = 2.0
_SILENT = re.compile(  # the controller is down, busy or restarting; the last is printed by requeue
    r"Unable to contact|timed out|Zero Bytes were transmitted|Connection refused|connect failure|in standby mode"
    r"|Unexpected message received",
    re.IGNORECASE,
)
Answer = TypeVar("Answer")
_FIELDS = "%R|%l|%G|%c|%D|%a|%T"  # of sinfo: partition, limit, gres, cores, nodes, up or down, state
ALIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "RESIZING"}
ALIVE |= {"SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT"}


class SlurmError(RuntimeError):
    """SLURM refused a request; the message is SLURM's."""


class NoAnswer(SlurmError):
    """SLURM's controller does not answer: the state of a job is unknown, the job may exist."""


@dataclass(frozen=True)
class Partition:
    """A partition and the resources of its nodes."""

    name: str
    is_default: bool
    limit_seconds: int | None  # None: no limit
    nodes: int
    cpus_per_node: int  # of its largest nodes
    gpus_per_node: int
    is_up: bool


@dataclass(frozen=True)
class JobState:
    """SLURM's state of a job: RUNNING, PENDING, FAILED ...; UNKNOWN when SLURM has forgotten it."""

    name: str
    reason: str = ""
    exit_code: str = ""  # CODE:SIGNAL
    queued: float | None = None  # time of the last submission, in seconds since 1970

    @property
    def is_alive(self) -> bool:
        return self.name in ALIVE

    @property
    def is_cancelled(self) -> bool:
        return self.name.startswith("CANCELLED")

    @property
    def is_past_limit(self) -> bool:
        """Whether SLURM is ending it for its time limit; it can be requeued meanwhile."""
        return self.name in ("COMPLETING", "TIMEOUT") and self.reason == "TimeLimit"


def slurm(*command: str) -> str:
    """Returns the output of a SLURM program; SlurmError with its last line when it fails."""
    try:
        done = subprocess.run(
            command, env=outside_of_job(), capture_output=True, text=True, timeout=_SECONDS_TO_ANSWER, check=False
        )
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]} is not on PATH: this machine is not a login node of a cluster") from error
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode(errors="replace")  # bytes, even with text=True
        why = _last_words(said, command[0], "is slurmctld up?")
        raise NoAnswer(f"{command[0]} gave no answer in {_SECONDS_TO_ANSWER} s: {why}") from error
    if done.returncode:
        said = _last_words(done.stderr, command[0], "exited without an error message")
        raise (NoAnswer if is_no_answer(said) else SlurmError)(f"{command[0]}: {said}")
    return done.stdout


def is_no_answer(said: str) -> bool:
    """Returns whether a SLURM program's last line says that the controller did not answer."""
    return _SILENT.search(said) is not None


def with_retries(question: Callable[[], Answer], seconds: float) -> Answer:
    """Calls `question` until the controller answers, and returns the answer; NoAnswer after `seconds` without
    one."""
    deadline, warned = time.monotonic() + seconds, False
    while True:
        try:
            return question()
        except NoAnswer as error:
            if time.monotonic() > deadline:
                raise
            if not warned:
                print(f"SLURM does not answer, retrying for {seconds:.0f} s: {error}", file=sys.stderr, flush=True)
            warned = True
            time.sleep(_SECONDS_BETWEEN_QUESTIONS)


def _last_words(said: str, program: str, otherwise: str) -> str:
    *_, last = said.strip().splitlines() or [otherwise]
    return last.removeprefix(f"{program}: ")


def outside_of_job() -> dict[str, str]:
    """Returns the environment without the variables of a surrounding job, which the new job would inherit."""
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    return {
        name: value for name, value in os.environ.items() if name in kept or not name.startswith(("SLURM_", "SBATCH_"))
    }


def partitions() -> list[Partition]:
    """Returns every partition; sinfo has one line per kind of node, which are merged."""
    default = slurm("sinfo", "-h", "-o", "%P").split()
    found: dict[str, Partition] = {}
    for line in slurm("sinfo", "-h", "-o", _FIELDS).splitlines():
        name, limit, gres, cpus, nodes, up, _ = line.split("|")
        before = found.get(name)
        found[name] = Partition(
            name=name,
            is_default=f"{name}*" in default,
            limit_seconds=seconds(limit),
            nodes=int(nodes) + (before.nodes if before else 0),
            cpus_per_node=max(int(cpus.rstrip("+")), before.cpus_per_node if before else 0),
            gpus_per_node=max(_num_gpus(gres), before.gpus_per_node if before else 0),
            is_up=up == "up",
        )
    return list(found.values())


def job_state(job: str) -> JobState:
    """Returns the state of `job`, which may be a task of an array: 12_3."""
    try:
        shown = slurm("scontrol", "-o", "show", "job", job)
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return JobState("UNKNOWN")
        raise
    if not shown.strip():
        raise NoAnswer(f"scontrol printed nothing about job {job}")
    said = dict(re.findall(r"(\w+)=(\S*)", shown.splitlines()[0]))
    queued = moment(said.get("SubmitTime", ""))  # a requeued job has a new submit time
    return JobState(said.get("JobState", "UNKNOWN"), said.get("Reason", ""), said.get("ExitCode", ""), queued)


def job_of_script(folder: Path) -> str | None:
    """Returns the id of this user's queued or running job with its script in `folder`, None without one."""
    for line in slurm("squeue", "-h", "-u", str(os.getuid()), "-o", "%F %o").splitlines():
        job, _, script = line.partition(" ")
        if folder in Path(script).parents:
            return job
    return None


def seconds_left(job: str) -> int | None:
    """Returns the seconds until the time limit of a running job; None without a limit."""
    return seconds(slurm("squeue", "-h", "-j", job, "-o", "%L").strip())


def moment(text: str) -> float | None:
    """Returns SLURM's 2026-11-26T11:09:14, which is local time, in seconds since 1970; None for Unknown."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def node_address(name: str) -> str:
    """Returns the address that SLURM uses for a node; empty when unknown."""
    found = re.search(r"NodeAddr=(\S+)", slurm("scontrol", "show", "node", name))
    return found[1] if found else ""


def seconds(limit: str) -> int | None:
    """Returns SLURM's minutes, MM:SS, HH:MM:SS or D-HH[:MM[:SS]] in seconds; None for no limit."""
    days, dash, rest = limit.rpartition("-")
    try:
        parts = [int(part) for part in rest.split(":")]
        whole_days = int(days or 0)
    except ValueError:  # infinite, UNLIMITED, INVALID, n/a
        return None
    if dash:
        parts = [*parts, 0, 0][:3]
    elif len(parts) == 1:
        parts = [0, parts[0], 0]
    hours, minutes, rest_seconds = [0, *parts][-3:]
    return ((whole_days * 24 + hours) * 60 + minutes) * 60 + rest_seconds


def _num_gpus(gres: str) -> int:
    """Returns the GPUs in `gpu:a100:4(S:0-1),nvme:1`."""
    return sum(int(count) for count in re.findall(r"\bgpu(?::[\w.-]+)?:(\d+)", gres))
