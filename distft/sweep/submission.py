"""The Hydra launcher plugin of distft: freezes a batch of points as runs, submits them in one call, and follows them.

On a signal, or with fail_fast on the first failure, running jobs save and stop; queued jobs are cancelled and stay
pending.
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
from distft.launch.stages import find, freeze, results_of, submit
from distft.launchers.contract import Handle, Launcher, Outcome
from distft.launchers.follow import Following, Row
from distft.run import FINISHED
from distft.runtime.disk import alone
from distft.sweep.board import Board, SweepStatus
from distft.sweep.jobs import Job
from distft.sweep.request import Point
from distft.trackers.contract import Guarded, make_trackers

_SECONDS_BETWEEN_POLLS = 0.2  # of all jobs together
_SECONDS_BETWEEN_STATES = 1.0


class Followed:
    """A submitted job that is being followed."""

    def __init__(self, job: Job, handle: Handle, grace_seconds: float, board: Board, status: SweepStatus):
        self.job = job
        self.handle = handle
        self.is_cancelled = False
        self._board = board
        self._status = status
        self._trackers = [Guarded(tracker) for tracker in make_trackers(job.config.tracker)]
        self._is_started = False
        self._early_rows: list[Row] = []  # rows of an earlier attempt, while the job is queued
        self._due = 0.0
        self._following = Following(job.run, handle, grace_seconds, [self._show], lambda _: None)

    def poll(self, caught: Sequence[signal.Signals], seconds: float) -> Outcome | None:
        """Returns the outcome of the job; None when it has not ended within `seconds`."""
        outcome = self._following.look(() if self.is_cancelled else caught, seconds)
        if outcome is None and not self._is_started and time.monotonic() >= self._due:
            self._due = time.monotonic() + _SECONDS_BETWEEN_STATES
            if self.handle.state() != "pending":
                self._start()
        return outcome

    def stop(self, reason: str | None) -> None:
        """Cancels a queued job; requests a running one to save and stop, unless a signal does (reason None)."""
        if self.handle.state() == "pending":
            self.is_cancelled = True
            self.handle.cancel()
        elif reason:
            self._following.request_stop(reason)

    def finish(self, outcome: Outcome) -> None:
        """Records and shows how the job ended; a cancelled job is pending again."""
        if self._early_rows and not self.is_cancelled:  # it started and ended between two polls
            self._start()
        if self._is_started:
            for tracker in self._trackers:
                if outcome.state in FINISHED:
                    tracker.results(results_of(self.job.run))
                tracker.finish(outcome.state)
        if self.is_cancelled and outcome.state == "failed":
            with suppress(OSError):
                self.job.run.write_status(state="pending", exit_code=None, error=None)
        self._status.update([self.job])
        self._board.end(self._status.of(self.job))

    def _start(self) -> None:
        self._is_started = True
        self._status.update([self.job], state="running")
        self._board.start(self.job)
        for tracker in self._trackers:
            tracker.start(self.job.run)
        for row in self._early_rows:
            self._show(row)
        self._early_rows = []

    def _show(self, row: Row) -> None:
        if not self._is_started:
            self._early_rows.append(row)
            return
        self._board.row(self.job, row)
        for tracker in self._trackers:
            tracker.log(row)


def follow(
    followed: Sequence[Followed],
    caught: Sequence[signal.Signals],
    board: Board,
    grace_seconds: float,
    *,
    fail_fast: bool,
    detach: bool = False,
) -> bool:
    """Follows the jobs until all have ended; returns whether the sweep was stopped.

    detach: on a signal, return at once; the jobs continue without this process.
    """
    running, is_stopping = list(followed), False
    board.wait(len(running))
    while running:
        if caught and detach:
            board.print(f"{caught[0].name}: {len(running)} jobs continue without this command")
            return True
        if caught and not is_stopping:
            is_stopping = True
            board.print(
                f"{caught[0].name}: no further job starts; running jobs finish their step and save within "
                f"{grace_seconds:.0f} s. Press Ctrl-C to end at once."
            )
            for each in running:
                each.stop(None)
        for each in list(running):
            outcome = each.poll(caught, _SECONDS_BETWEEN_POLLS / len(running))
            if outcome is None:
                continue
            running.remove(each)
            each.finish(outcome)
            if fail_fast and outcome.state == "failed" and not is_stopping:
                is_stopping = True
                board.print(f"sweep.fail_fast=true: {each.job.name} failed, the other jobs save and stop")
                for other in running:
                    other.stop(f"sweep.fail_fast=true, and {each.job.name} failed")
    return is_stopping


MakeJobs = Callable[[Sequence[Point], int], list[Job]]


class Stopped(Exception):
    """The sweep must not start further jobs."""


class Detached(Exception):
    """The jobs are submitted and continue without this command (launcher.wait=false)."""


class Submission(HydraLauncher):
    """Runs the unfinished jobs of a batch by one call of distft's launcher; returns the objectives to the sweeper."""

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
        """make_jobs: (points, index of the first) -> jobs with plans. caught: signals that this process received."""
        self._make_jobs = make_jobs
        self._launcher = launcher
        self._status = status
        self._board = board
        self._caught = caught
        self._only_failed = only_failed
        self._fail_fast = fail_fast

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Does nothing: jobs are processes, and distft composes their configs."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Returns the best eval.metric of each job, None for an unfinished one; raises Stopped after a signal.

        Failures are recorded in the run folder and in sweep_status.json, not raised: Hydra would raise only the first.
        """
        jobs = self._make_jobs([tuple(point) for point in job_overrides], initial_job_idx)
        self._status.update(jobs)
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
        """Freezes, submits and follows jobs, each locked against a second launch."""
        if self._caught:
            raise Stopped
        if not jobs:
            return
        with ExitStack() as locks:
            busy = [job.run.path for job in jobs if not locks.enter_context(alone(job.run.path / ".lock"))]
            if busy:
                raise ConfigError(f"another launch is using {path}. Try: wait for it to end" for path in busy)
            found = {job.name: handle for job in jobs if (handle := find(self._launcher, job.run)) is not None}
            fresh = [job for job in jobs if job.name not in found]
            for job in fresh:
                assert job.plan is not None
                freeze(job.run, job.config, job.plan, job.overrides)
            self._status.update(jobs)
            submitted = submit(self._launcher, [job.run for job in fresh]) if fresh else []
            handles = found | {
                job.name: restarting(handle, job.run, job.config) for job, handle in zip(fresh, submitted, strict=True)
            }
            settings = jobs[0].config.launcher
            grace = settings.grace_seconds
            followed = [Followed(job, handles[job.name], grace, self._board, self._status) for job in jobs]
            detach = self._launcher.outlives_launch
            if detach and not settings.wait:
                self._board.print(f"{len(followed)} jobs are submitted. Try: launcher.wait=true to follow them")
                raise Detached
            if follow(followed, self._caught, self._board, grace, fail_fast=self._fail_fast, detach=detach):
                raise Stopped
