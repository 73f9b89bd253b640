"""Runs on this machine: one torch elastic process per attempt, which starts one worker per rank.

Trap: the order in which the machines start does not decide which one is first. The first is the one that has the
address of launcher.rendezvous.
"""

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from distft.goodput import note
from distft.launchers.contract import Outcome
from distft.launchers.fork_server import Forked, ForkServer
from distft.launchers.outcome import elastic_log, outcome_of, write_outcome
from distft.run import RunFolder, State
from distft.runtime.addresses import Unreachable, is_own, reach
from distft.runtime.errors import Failure

SECONDS_TO_WAIT = 60.0
_SECONDS_TO_SHOW = 15.0  # for a file written by another machine on a shared disk


@dataclass(frozen=True)
class Place:
    """The rendezvous address of a run."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def place_of(text: str) -> Place:
    """Parses HOST:PORT; ValueError when the text is something else."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"launcher.rendezvous={text} is not HOST:PORT. Try: {host or text or 'node1'}:29500")
    return Place(host.strip("[]"), int(port))


def is_first(place: Place) -> bool:
    """Returns whether this machine holds the store: it has the address, and the port is free."""
    if not is_own(place.host):
        return False
    with socket.socket(socket.AF_INET6 if ":" in place.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", place.port))
        except OSError:
            return False
    return True


def wait_for_first(place: Place, run: RunFolder) -> None:
    """Waits until the first machine has started the run; ValueError when it does not, or its folder is not shared."""
    try:
        reach([place.host], place.port, SECONDS_TO_WAIT)
    except Unreachable as error:
        rule = "run the same command on the machine that has this address"
        raise ValueError(f"launcher.rendezvous={place}: {rule}; {error}. Try: another address, or port") from error
    deadline = time.monotonic() + _SECONDS_TO_SHOW
    while run.read_status()["state"] not in ("pending", "running"):
        if time.monotonic() > deadline:
            raise ValueError(
                f"launcher.rendezvous={place} answers, but {run.path} is not running here: another program uses that "
                "port, or the machines do not share this folder. Try: another port, or runs_dir on a shared disk"
            )
        time.sleep(0.2)


_SECONDS_TO_END = 5  # for the elastic process to end its workers before all are killed


@dataclass(frozen=True)
class LocalConfig:
    """The keys of launcher=local that decide how its processes are started."""

    nodes: int = 1
    jobs_at_once: int | None = 1  # None: all
    rendezvous: str | None = None  # HOST:PORT of the first of several machines
    program: str = "distft.rank"


class Local:
    """Starts runs as processes of this machine, `jobs_at_once` of them at a time."""

    outlives_launch = False
    is_hosted = False

    def __init__(self, config: LocalConfig) -> None:
        if (config.nodes == 1) != (config.rendezvous is None):
            raise ValueError(
                f"launcher.nodes={config.nodes} launcher.rendezvous={config.rendezvous or 'null'}: one machine, or "
                "several with a rendezvous. Try: launcher.nodes=2 launcher.rendezvous=HOST:29500, or launcher=slurm"
            )
        self.config = config
        self._place = place_of(config.rendezvous) if config.rendezvous else None
        self._server = ForkServer()

    def submit(self, run_dirs: Sequence[Path]) -> "list[LocalRun]":
        """Starts the first `jobs_at_once` runs; the others start as earlier ones end, while a caller waits."""
        meet = ["--nodes", str(self.config.nodes)]
        if self._place:
            meet += ["--address", self._place.host, "--port", str(self._place.port)]
        runs: list[LocalRun] = []
        at_once = self.config.jobs_at_once or len(run_dirs)
        for path in run_dirs:
            run = RunFolder(Path(path))
            runs.append(LocalRun(run, self.config.program, meet, self._server, queue=runs, jobs_at_once=at_once))
        for run in runs:
            run.start_if_free()
        return runs

    def find(self, run_dir: Path) -> "LocalRun | None":
        """Returns this machine's part of a run started on the first machine; None on the first machine."""
        if self._place is None or is_first(self._place):
            return None
        run = RunFolder(Path(run_dir))
        wait_for_first(self._place, run)
        meet = ["--nodes", str(self.config.nodes), "--join", str(self._place)]
        part = LocalRun(run, self.config.program, meet, self._server, is_part=True)
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
        """meet: rendezvous arguments of the elastic process. is_part: another machine's launch owns the run."""
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
        is_started = self._process or self._outcome
        return (is_started and self.run.read_status()["state"]) or "pending"

    def wait(self, seconds: float) -> Outcome | None:
        """Returns the outcome after writing it to status.json; None if the run has not ended yet."""
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
        """Kills every process of the run; the workers die with the elastic process."""
        if self._process is None:
            error = asdict(Failure.of_run("cancelled before it started", self._log))
            self._outcome = self._outcome or Outcome("failed", error)
            return
        self._process.cancel(_SECONDS_TO_END)

    def start_again(self) -> None:
        """Starts the attempt in status.json after the previous one has ended, when it is this run's turn."""
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
