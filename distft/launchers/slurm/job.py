"""A SLURM job: its handle on the login node, and the node's part of an attempt.

submitit pickles run_script by name, with the path of the run folder; a run has no other pickle.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distft.config.errors import Unavailable
from distft.launchers.contract import Outcome
from distft.launchers.slurm import commands
from distft.launchers.slurm.commands import (
    JobState,
    NoAnswer,
    SlurmError,
    job_of_script,
    job_state,
    slurm,
    with_retries,
)
from distft.run import BY_YOU, FINISHED, RunFolder, State, read_json
from distft.runtime.errors import Failure
from distft.runtime.logs import Patient, last_lines


def run_script(run_dir: str) -> None:
    """Replaces this process by the run's batch script, with the output file it has when submitted by hand."""
    run = Path(run_dir)
    log = os.open(run / "logs" / "slurm.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    script = str(run / "train.sbatch")
    os.execvp("bash", ["bash", script, run_dir])


BY_SCANCEL = f"{BY_YOU} scancel"  # or by an administrator: SLURM does not distinguish them
_SECONDS_BETWEEN_QUESTIONS = (1.0, 15.0)  # at first, and later: the controller serves a whole cluster
_SECONDS_BETWEEN_LOOKS = 1.0  # at status.json
_SECONDS_TO_SHOW = 10.0  # for what a job wrote at its end on a shared disk
_OF_OLD_JOBS = "No module named distft."  # a job script names modules, which may have moved since


class SlurmRun:
    """One run as a job, queued or running; it continues when no process waits for it."""

    is_part = False

    def __init__(self, run: RunFolder, job: str) -> None:
        self.run, self.job, self.name = run, job, f"job {job}"
        self.say: Callable[[str], None] = lambda text: print(text, file=Patient(sys.stderr))
        self._look_due = self._ask_due = 0.0
        self._pause = _SECONDS_BETWEEN_QUESTIONS[0]
        self._told = ""
        self._gone_since: float | None = None

    def state(self) -> State:
        return self.run.read_status()["state"] or "pending"

    def wait(self, seconds: float) -> Outcome | None:
        """Returns the outcome; None for a requeued job. Records the end of a job that SLURM ended."""
        time.sleep(seconds)
        now = time.monotonic()
        if now < self._look_due:
            return None
        self._look_due = now + _SECONDS_BETWEEN_LOOKS
        status = self.run.read_status()
        if status["state"] is not None and status["exit_code"] is not None:
            return Outcome(status["state"], status["error"])
        if now < self._ask_due:
            return None
        state = self._ask()
        if state is None or state.is_alive:
            self._gone_since = None
            return None
        self._ask_due = 0.0
        self._gone_since = self._gone_since or now
        has_told = status["state"] in (*FINISHED, "preempted")
        return self._write_end(state) if has_told or now - self._gone_since > _SECONDS_TO_SHOW else None

    def cancel(self) -> None:
        """Cancels the job; its ranks still save if the step in progress ends in time.

        Unavailable when SLURM does not answer: the job continues.
        """
        self.say(f"scancel {self.job}")
        try:
            with_retries(lambda: slurm("scancel", self.job), commands.SECONDS_OF_COMMAND)
        except NoAnswer as error:
            raise Unavailable(f"{error}. {self.name} continues. Try: scancel {self.job} when SLURM answers") from error
        except SlurmError as error:
            self.say(f"scancel {self.job}: {error}")

    def _ask(self) -> JobState | None:
        """Returns the job's state, None while SLURM does not answer; prints each change."""
        first, last = _SECONDS_BETWEEN_QUESTIONS
        self._ask_due, self._pause = time.monotonic() + self._pause, min(self._pause * 1.5, last)
        try:
            state = job_state(self.job)
        except SlurmError as error:
            self._say(f"SLURM does not answer, retrying: {error}")
            return None
        waits_for = f", waits for: {state.reason}" if state.name == "PENDING" and state.reason != "None" else ""
        if self._say(f"job {self.job}: {state.name.lower()}{waits_for}"):
            self._pause = first
        return state

    def _say(self, text: str) -> bool:
        news = text != self._told
        if news:
            self._told = text
            self.say(text)
        return news

    def _write_end(self, state: JobState) -> Outcome:
        status = self.run.read_status()
        ended: State = status["state"] or "failed"
        ended = ended if ended in (*FINISHED, "preempted") else "failed"
        error = None if ended != "failed" else self._why(state)
        outcome = Outcome(ended, error)
        reason = BY_SCANCEL if state.is_cancelled else status["reason"]
        self.run.write_status(state=ended, exit_code=outcome.exit_code, error=error, reason=reason)
        return outcome

    def _why(self, state: JobState) -> Mapping[str, Any]:
        log = self.run.logs / "slurm.out"
        what = "SLURM has forgotten the job" if state.name == "UNKNOWN" else f"SLURM ended it: {state.name}"
        about = f" (exit code {state.exit_code})" if state.exit_code else ""
        said = "; ".join(last_lines(log, 1))
        cure = ". Another version of distft submitted it. Try: the same command again" if _OF_OLD_JOBS in said else ""
        message = f"job {self.job}: {what}{about}. The last it printed: {said or 'nothing'}{cure}"
        return asdict(Failure.of_run(message, log))


def read_job(run: RunFolder) -> str | None:
    """Returns the id of the job that runs `run` or ran it last; None without a job or a known id."""
    return read_json(run.job)["job"] if run.job.is_file() else None


def find_job(run: RunFolder) -> str | None:
    """Returns the queued or running job of `run`; Unavailable while SLURM does not answer."""
    if not run.job.is_file():
        return None
    submitted = read_json(run.job)

    def question() -> str | None:
        if submitted["job"] is None:  # its submission got no answer
            return job_of_script(Path(submitted["scripts"]))
        return submitted["job"] if job_state(submitted["job"]).is_alive else None

    try:
        return with_retries(question, commands.SECONDS_OF_COMMAND)
    except SlurmError as error:
        which = f"job {submitted['job']}" if submitted["job"] else "a job"
        what = f"{run.path}: {which} may run it, and SLURM does not answer: {error}"
        known = f"Nothing was submitted. Try: the same command later, or, if the job has ended, rm {run.job}"
        raise Unavailable(f"{what}. {known}") from error
