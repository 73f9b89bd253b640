"""Runs on this machine: one torch elastic process per attempt of a run, which starts one worker per rank."""

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from distft.goodput.timeline import note
from distft.launchers.contract import Outcome
from distft.launchers.ended import elastic_log, outcome_of, write_outcome
from distft.launchers.forks import Forked, ForkServer
from distft.launchers.together import is_first, place_of, wait_for_first
from distft.run import RunFolder, State
from distft.runtime.errors import Failure

_SECONDS_TO_END = 5  # for the elastic process to end its workers before it is killed, and they with it


class Local:
    """Starts runs as processes of this machine, `jobs_at_once` of them at a time."""

    outlives_launch = False

    def __init__(
        self,
        nodes: int = 1,
        processes_per_node: int | Literal["auto"] = "auto",
        wait: bool = True,
        grace_seconds: float = 300,
        jobs_at_once: int | None = 1,
        program: str = "distft.rank",
        rendezvous: str | None = None,
        stage: Literal["none", "node_local"] = "none",
        stage_dir: str | None = None,
        hang_seconds: float | None = None,
        hang_seconds_outside: float = 1800,
        restarts: int = 0,
    ):
        """rendezvous: HOST:PORT of the first of several machines. stage, stage_dir, hang_seconds: for others, who read
        them in the run's config.
        """
        if rendezvous and restarts:
            raise ValueError(
                f"launcher.restarts={restarts}: machines that meet without a scheduler are not started again. "
                "Try: launcher.restarts=0, or launcher=slurm"
            )
        if (nodes == 1) != (rendezvous is None):
            raise ValueError(
                f"launcher.nodes={nodes} launcher.rendezvous={rendezvous or 'null'}: this machine, or several that "
                "meet. Try: launcher.nodes=2 launcher.rendezvous=HOST:29500, or launcher=slurm"
            )
        self._nodes = nodes
        self._place = place_of(rendezvous) if rendezvous else None
        self.processes_per_node = processes_per_node
        self.wait = wait
        self.grace_seconds = grace_seconds
        self.jobs_at_once = jobs_at_once
        self.program = program
        self.restarts = restarts
        self._server = ForkServer()

    def submit(self, run_dirs: Sequence[Path]) -> "list[LocalRun]":
        """Starts the first `jobs_at_once` runs; the others start as earlier ones end, while anyone waits."""
        meet = ["--nodes", str(self._nodes)]
        if self._place:
            meet += ["--address", self._place.host, "--port", str(self._place.port)]
        runs: list[LocalRun] = []
        at_once = self.jobs_at_once or len(run_dirs)
        for path in run_dirs:
            run = RunFolder(Path(path))
            runs.append(LocalRun(run, self.program, meet, self._server, queue=runs, jobs_at_once=at_once))
        for run in runs:
            run.start_if_free()
        return runs

    def find(self, run_dir: Path) -> "LocalRun | None":
        """Returns this machine's part of a run that the first machine has begun; None where this is the first."""
        if self._place is None or is_first(self._place):
            return None
        run = RunFolder(Path(run_dir))
        wait_for_first(self._place, run)
        meet = ["--nodes", str(self._nodes), "--join", str(self._place)]
        part = LocalRun(run, self.program, meet, self._server, is_part=True)
        part.start_if_free()
        return part


class LocalRun:
    """One run on this machine."""

    name = "processes of this machine"

    def __init__(
        self,
        run: RunFolder,
        program: str,
        meet: Sequence[str],
        server: ForkServer,
        queue: "list[LocalRun] | None" = None,
        jobs_at_once: int = 1,
        is_part: bool = False,
    ):
        """meet: how its elastic process meets other machines'. is_part: another machine's launch has the run."""
        self.run, self.is_part = run, is_part
        self.attempt: int = run.read_status()["attempt"]
        self._program = program
        self._meet = meet
        self._server = server
        self._queue = queue if queue is not None else [self]
        self._jobs_at_once = jobs_at_once
        self._process: Forked | None = None
        self._outcome: Outcome | None = None

    def state(self) -> State:
        """Returns the state in status.json; `pending` while the run is queued."""
        return self.run.read_status()["state"] if self._process or self._outcome else "pending"

    def wait(self, seconds: float) -> Outcome | None:
        """Returns how the run ended, and has written it to status.json; None when it has not ended yet."""
        if self._outcome is not None:
            return self._outcome
        for other in self._queue:
            other.start_if_free()
        if self._process is None:
            time.sleep(seconds)
            return None
        ended = self._process.wait(seconds)
        if ended is None:
            return None
        self._outcome = outcome_of(self.run, ended.code, ended.said, self._log)
        if not self.is_part:
            write_outcome(self.run, self._outcome)
        return self._outcome

    def cancel(self) -> None:
        """Ends every process of the run at once; the workers die with the elastic process."""
        if self._process is None:
            error = asdict(Failure.of_run("cancelled before it started", self._log))
            self._outcome = self._outcome or Outcome("failed", error)
            return
        self._process.cancel(_SECONDS_TO_END)

    def start_again(self) -> None:
        """Starts the attempt that status.json names, in place of the one that has ended and in its turn."""
        assert self._outcome is not None
        self.attempt = self.run.read_status()["attempt"]
        self._outcome = None
        self._start()

    def start_if_free(self) -> None:
        """Starts the run unless it has been started or too many others are running."""
        running = [run for run in self._queue if run._process is not None and run._outcome is None]
        if self._process is not None or self._outcome is not None or len(running) >= self._jobs_at_once:
            return
        self._start()

    def _start(self) -> None:
        if not self.is_part:
            note(self.run, "begun", self.attempt)
        arguments = [str(self.run.path), "--attempt", str(self.attempt), "--program", self._program, *self._meet]
        self._process = self._server.start(arguments, self._log)

    @property
    def _log(self) -> Path:
        log = elastic_log(self.run, self.attempt)
        return log.with_name(f"elastic-{socket.gethostname()}-{os.getpid()}.log") if self.is_part else log
