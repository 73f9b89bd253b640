"""The Hydra launcher plugin of distft: a batch of points becomes frozen runs, submitted in one call and watched.

A signal, or with fail_fast the first failure, asks those that run to save and stop; those that wait are withdrawn, and
stay pending.
"""

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher as HydraLauncher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from distft.config.errors import ConfigError
from distft.launch.restarts import restarting
from distft.launch.stages import find, freeze, make_part, submit
from distft.launchers.contract import Handle, Launcher, Outcome
from distft.launchers.follow import Following, Row
from distft.runtime.disk import alone
from distft.sweep.board import Board, SweepStatus
from distft.sweep.jobs import Job
from distft.sweep.request import Point
from distft.trackers.contract import Guarded

_SECONDS_BETWEEN_LOOKS = 0.2  # at all jobs together
_SECONDS_BETWEEN_STATES = 1.0


class Watched:
    """One submitted job."""

    def __init__(self, job: Job, handle: Handle, grace_seconds: float, board: Board, status: SweepStatus):
        self.job = job
        self.handle = handle
        self.is_withdrawn = False
        self._board = board
        self._status = status
        self._tracker = Guarded(make_part(job.config, "tracker"))
        self._is_started = False
        self._early_rows: list[Row] = []  # of an earlier attempt, while the job waits for its turn
        self._due = 0.0
        self._following = Following(job.run, handle, grace_seconds, [self._show], lambda _: None)

    def look(self, caught: Sequence[signal.Signals], seconds: float) -> Outcome | None:
        """Returns how the job ended, None when it has not within `seconds`."""
        outcome = self._following.look(() if self.is_withdrawn else caught, seconds)
        if outcome is None and not self._is_started and time.monotonic() >= self._due:
            self._due = time.monotonic() + _SECONDS_BETWEEN_STATES
            if self.handle.state() != "pending":
                self._start()
        return outcome

    def stop(self, reason: str | None) -> None:
        """Withdraws a job that waits; one that runs is asked to save and stop, unless a signal does (reason None)."""
        if self.handle.state() == "pending":
            self.is_withdrawn = True
            self.handle.cancel()
        elif reason:
            self._following.request_stop(reason)

    def finish(self, outcome: Outcome) -> None:
        """Tells how the job ended; one that was withdrawn still waits."""
        if self._early_rows and not self.is_withdrawn:  # it came and went between two looks
            self._start()
        if self._is_started:
            self._tracker.finish(outcome.state)
        if self.is_withdrawn and outcome.state == "failed":
            with suppress(OSError):
                self.job.run.write_status(state="pending", exit_code=None, error=None)
        self._status.tell([self.job])
        self._board.end(self._status.of(self.job))

    def _start(self) -> None:
        self._is_started = True
        self._status.tell([self.job], state="running")
        self._board.start(self.job)
        self._tracker.start(self.job.run)
        for row in self._early_rows:
            self._show(row)
        self._early_rows = []

    def _show(self, row: Row) -> None:
        if not self._is_started:
            self._early_rows.append(row)
            return
        self._board.row(self.job, row)
        self._tracker.log(row)


def watch(
    watched: Sequence[Watched],
    caught: Sequence[signal.Signals],
    board: Board,
    grace_seconds: float,
    *,
    fail_fast: bool,
    leaves: bool = False,
) -> bool:
    """Returns, when all have ended, whether the sweep was to stop before its end.

    leaves: a signal leaves the jobs alone, and they go on without this process.
    """
    running, is_stopping = list(watched), False
    board.wait(len(running))
    while running:
        if caught and leaves:
            board.say(f"{caught[0].name}: {len(running)} jobs go on without this command")
            return True
        if caught and not is_stopping:
            is_stopping = True
            board.say(
                f"{caught[0].name}: no job starts any more; those that run end their step and save, {grace_seconds:.0f}"
                " s at most. Press Ctrl-C to end at once."
            )
            for each in running:
                each.stop(None)
        for each in list(running):
            outcome = each.look(caught, _SECONDS_BETWEEN_LOOKS / len(running))
            if outcome is None:
                continue
            running.remove(each)
            each.finish(outcome)
            if fail_fast and outcome.state == "failed" and not is_stopping:
                is_stopping = True
                board.say(f"sweep.fail_fast=true: {each.job.name} failed, the other jobs save and stop")
                for other in running:
                    other.stop(f"sweep.fail_fast=true, and {each.job.name} failed")
    return is_stopping


MakeJobs = Callable[[Sequence[Point], int], list[Job]]


class Stopped(Exception):
    """The sweep is to start no more jobs."""


class Left(Exception):
    """The jobs are submitted and go on without this command, as launcher.wait=false asks."""


class Submission(HydraLauncher):
    """Runs what is not done of a batch, by one call of distft's launcher, and gives the sweeper the objectives."""

    def __init__(
        self,
        make_jobs: MakeJobs,
        launcher: Launcher,
        status: SweepStatus,
        board: Board,
        caught: Sequence[signal.Signals],
        *,
        only_failed: bool,
        fail_fast: bool,
    ):
        """make_jobs: (points, index of the first) -> jobs with their plans. caught: the signals to this process."""
        self._make_jobs = make_jobs
        self._launcher = launcher
        self._status = status
        self._board = board
        self._caught = caught
        self._only_failed = only_failed
        self._fail_fast = fail_fast

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Needs nothing of Hydra's: jobs are processes, and their configs are composed by distft."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Returns each job's lowest held-out loss, None of one that has not come to its end; Stopped after a signal.

        What has failed is told in its folder and in sweep_status.json, not by raising: Hydra would raise the first
        failure alone.
        """
        jobs = self._make_jobs([tuple(point) for point in job_overrides], initial_job_idx)
        self._status.tell(jobs)
        self._run([job for job in jobs if job.plan is not None and (job.has_failed or not self._only_failed)])
        return [
            JobReturn(
                overrides=job.overrides,
                working_dir=str(job.run.path),
                task_name=job.name,
                status=JobStatus.COMPLETED,
                _return_value=self._status.of(job)["objective"],
            )
            for job in jobs
        ]

    def _run(self, jobs: Sequence[Job]) -> None:
        """Freezes, submits and watches jobs, each locked against another launch of its own."""
        if self._caught:
            raise Stopped
        if not jobs:
            return
        with ExitStack() as locks:
            busy = [job.run.path for job in jobs if not locks.enter_context(alone(job.run.path / ".lock"))]
            if busy:
                raise ConfigError(f"another launch is busy with {path}. Try: wait for its end" for path in busy)
            found = {job.name: handle for job in jobs if (handle := find(self._launcher, job.run)) is not None}
            fresh = [job for job in jobs if job.name not in found]
            for job in fresh:
                assert job.plan is not None
                freeze(job.run, job.config, job.plan, job.overrides)
            self._status.tell(jobs)
            submitted = submit(self._launcher, [job.run for job in fresh]) if fresh else []
            handles = found | {
                job.name: restarting(handle, job.run, job.config) for job, handle in zip(fresh, submitted, strict=True)
            }
            grace = self._launcher.grace_seconds
            watched = [Watched(job, handles[job.name], grace, self._board, self._status) for job in jobs]
            leaves = self._launcher.outlives_launch
            if leaves and not self._launcher.wait:
                self._board.say(f"{len(watched)} jobs are submitted. With launcher.wait=true the command follows them")
                raise Left
            if watch(watched, self._caught, self._board, grace, fail_fast=self._fail_fast, leaves=leaves):
                raise Stopped
