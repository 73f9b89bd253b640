"""Runs on this machine: one torch elastic process per run, which starts one worker per rank."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from distft.launchers.contract import Outcome
from distft.launchers.ended import elastic_log, outcome_of, write_outcome
from distft.run import RunFolder, State
from distft.runtime.errors import Failure
from distft.runtime.parent import start_bound

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
        jobs_at_once: int = 1,
        program: str = "distft.rank",
        stage: Literal["none", "node_local"] = "none",
        stage_dir: str | None = None,
    ):
        """stage, stage_dir: for the ranks, which read them in the run's config."""
        if nodes != 1:
            raise ValueError(
                f"launcher.nodes={nodes}: launcher=local is this machine alone. Nearest: launcher.nodes=1, "
                f"or launcher=slurm launcher.nodes={nodes}"
            )
        self.processes_per_node = processes_per_node
        self.wait = wait
        self.grace_seconds = grace_seconds
        self.jobs_at_once = jobs_at_once
        self.program = program

    def submit(self, run_dirs: Sequence[Path]) -> "list[LocalRun]":
        """Starts the first `jobs_at_once` runs; the others start as earlier ones end, while anyone waits."""
        runs: list[LocalRun] = []
        for path in run_dirs:
            runs.append(LocalRun(RunFolder(Path(path)), self.program, queue=runs, jobs_at_once=self.jobs_at_once))
        for run in runs:
            run.start_if_free()
        return runs

    def find(self, run_dir: Path) -> "LocalRun | None":
        """Returns None: what is under way here is another launch's, and ends with it."""
        return None


class LocalRun:
    """One run on this machine."""

    name = "processes of this machine"

    def __init__(self, run: RunFolder, program: str, queue: "list[LocalRun]", jobs_at_once: int):
        self.run = run
        self.attempt: int = run.read_status()["attempt"]
        self._program = program
        self._queue = queue
        self._jobs_at_once = jobs_at_once
        self._process: subprocess.Popen[str] | None = None
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
        try:
            said, _ = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        self._outcome = outcome_of(self.run, self._process.returncode, said, self._log)
        write_outcome(self.run, self._outcome)
        return self._outcome

    def cancel(self) -> None:
        """Ends every process of the run at once; the workers die with the elastic process."""
        if self._process is None:
            error = asdict(Failure.of_run("cancelled before it started", self._log))
            self._outcome = self._outcome or Outcome("failed", error)
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def start_if_free(self) -> None:
        """Starts the run unless it has been started or too many others are running."""
        running = [run for run in self._queue if run._process is not None and run._outcome is None]
        if self._process is not None or self._outcome is not None or len(running) >= self._jobs_at_once:
            return
        self._log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "distft.launchers.elastic", str(self.run.path)]
        command += ["--attempt", str(self.attempt), "--program", self._program]
        with self._log.open("a") as log:
            self._process = start_bound(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )

    @property
    def _log(self) -> Path:
        return elastic_log(self.run, self.attempt)
