"""The Hydra launcher plugin of distft: a batch of points becomes frozen runs, submitted in one call and watched."""

import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher as HydraLauncher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from distft.config.errors import ConfigError
from distft.launchers.contract import Launcher
from distft.restarts import restarting
from distft.runtime.lock import alone
from distft.stages import find, freeze, submit
from distft.sweep.board import Board
from distft.sweep.jobs import Job
from distft.sweep.request import Point
from distft.sweep.status import SweepStatus
from distft.sweep.watch import Watched, watch

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
