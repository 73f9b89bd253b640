"""Starts one node's ranks with torch elastic: `python -m distft.launchers.elastic RUN --attempt N`.

When a rank fails, the ranks of all nodes are ended, and one JSON line on stdout names the first failure.
Trap: a signal that this process inherited as ignored stays ignored; a scheduler sends it to the ranks.

Without an accelerator, ranks are forked from a process that has imported their modules: importing torch,
transformers and a strategy takes seconds per rank. A device driver does not survive a fork, so with an accelerator
each rank is a new Python process.
"""

import argparse
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch.distributed.elastic.agent.server.api import (
    RunResult,
    SimpleElasticAgent,
    Worker,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from distft.compat.elastic import agent_options
from distft.config.freeze import read_config
from distft.launchers.rendezvous import Node, Rendezvous, RendezvousError, join, join_at, open_alone, open_first
from distft.launchers.watchdog import Limits, watched
from distft.machines import is_positive
from distft.run import RunFolder, json_text
from distft.runtime.errors import Exit, Failure, first_failure
from distft.runtime.logs import Patient, redirect, silence
from distft.runtime.process import fork


class Rank(Protocol):
    """A process, with the verbs of multiprocessing.Process."""

    @property
    def pid(self) -> int | None: ...
    @property
    def exitcode(self) -> int | None: ...
    def join(self, timeout: float | None = None) -> None: ...


@cache
def can_fork() -> bool:
    """Returns whether ranks on this machine can be forked from a process that has loaded torch.

    Trap: after the parent has queried the driver, a forked child may see no devices. The result is cached, and a
    child inherits it.
    """
    return sys.platform == "linux" and torch.accelerator.device_count() == 0


def prepare(program: str, run: RunFolder) -> None:
    """Imports the modules of the ranks before they are forked; does nothing where ranks are not forked.

    program: a module with `main()` and optionally `prepare(config)`, which imports. An error here is ignored: each
    rank raises it again and logs it.
    """
    if not can_fork():
        return
    silence()
    os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it on import; ranks set it too
    with suppress(Exception):
        module = importlib.import_module(program)
        if hasattr(module, "prepare"):
            module.prepare(read_config(run))


def start_rank(program: str, arguments: Sequence[str], environment: dict[str, str], log: Path) -> Rank:
    """Starts a rank with its output in `log` from the first byte on, so that a failing import is logged too."""
    log.write_text("")
    if can_fork():
        return fork(f"rank {environment['RANK']}", run_as_main, program, arguments, environment, log)
    with log.open("a") as file:
        command = [sys.executable, "-m", program, *arguments]
        return SpawnedRank(
            subprocess.Popen(
                command, env=os.environ | environment, stdout=file, stderr=file, start_new_session=True, text=True
            )
        )


def run_as_main(program: str, arguments: Sequence[str], environment: dict[str, str], log: Path) -> None:
    """Runs `program` in this process as `python -m program` would."""
    redirect(log)
    os.environ.update(environment)
    torch.set_num_threads(
        int(os.environ["OMP_NUM_THREADS"].partition(",")[0])
    )  # torch read the variable when it was loaded
    sys.argv = [program, *arguments]
    importlib.import_module(program).main()


class SpawnedRank:
    """A rank in a new Python process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()

    def join(self, timeout: float | None = None) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)


_SECONDS_TO_END = 3  # between SIGTERM, which a rank only records, and SIGKILL


class Agent(SimpleElasticAgent):
    """torch's elastic agent without restarts: ends all ranks of the node as soon as one has failed."""

    def __init__(self, spec: WorkerSpec, start: Callable[[dict[str, str]], Rank]) -> None:
        """start: starts a rank with the given environment variables."""
        super().__init__(spec, **agent_options(_SECONDS_TO_END))
        self._exits: dict[int, Exit] = {}  # by global rank
        self._start = start
        self._ranks: dict[int, Rank] = {}

    def failed(self) -> dict[int, Exit]:
        """Returns global rank -> exit of the ranks of this node that failed."""
        return {rank: end for rank, end in self._exits.items() if end.code}

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        for worker in worker_group.workers:
            self._ranks[worker.global_rank] = self._start(variables(worker, worker_group))
        return {worker.local_rank: self._ranks[worker.global_rank].pid for worker in worker_group.workers}

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        self._note_exits()
        if self.failed():
            self._shutdown(timeout=_SECONDS_TO_END)
            failures = {rank: self._failure(rank, end.code) for rank, end in self.failed().items()}
            return RunResult(state=WorkerState.FAILED, failures=failures)
        if len(self._exits) == len(self._ranks):
            return RunResult(state=WorkerState.SUCCEEDED, return_values=dict.fromkeys(self._ranks))
        return RunResult(state=WorkerState.HEALTHY)

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        self._shutdown(timeout=_SECONDS_TO_END)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = _SECONDS_TO_END) -> None:
        first = signal.SIGKILL if death_sig == signal.SIGQUIT else death_sig  # SIGQUIT would write core files
        for number in (first, signal.SIGKILL):
            deadline = time.monotonic() + timeout
            left = [rank for rank in self._ranks.values() if rank.exitcode is None]
            for rank in left:
                _send(rank, number)
            for rank in left:
                rank.join(max(0, deadline - time.monotonic()))
        self._note_exits()

    def _note_exits(self) -> None:
        for number, rank in self._ranks.items():
            code = rank.exitcode
            if code is not None and number not in self._exits:
                self._exits[number] = Exit(code, time.time())
                line = f"{datetime.now()} rank {number} (process {rank.pid}) ended with {code}"
                print(line, file=Patient(sys.stderr))  # the disk may be full

    def _failure(self, rank: int, code: int) -> ProcessFailure:
        return ProcessFailure(local_rank=rank, pid=self._ranks[rank].pid or 0, exitcode=code, error_file="")


def variables(worker: Worker, group: WorkerGroup) -> dict[str, str]:
    """Returns the environment variables that torchrun sets for a worker.

    https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
    """
    spec = group.spec
    return {
        "LOCAL_RANK": str(worker.local_rank),
        "RANK": str(worker.global_rank),
        "GROUP_RANK": str(group.group_rank),
        "ROLE_RANK": str(worker.role_rank),
        "ROLE_NAME": spec.role,
        "LOCAL_WORLD_SIZE": str(spec.local_world_size),
        "WORLD_SIZE": str(worker.world_size),
        "GROUP_WORLD_SIZE": str(group.group_world_size),
        "ROLE_WORLD_SIZE": str(worker.role_world_size),
        "MASTER_ADDR": str(group.master_addr),
        "MASTER_PORT": str(group.master_port),
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": spec.rdzv_handler.get_run_id(),
        "TORCHELASTIC_USE_AGENT_STORE": str(spec.rdzv_handler.use_agent_store),
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": os.environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
    }


def _send(rank: Rank, number: signal.Signals) -> None:
    assert rank.pid is not None
    for send in (os.killpg, os.kill):  # os.kill: it does not lead a process group yet
        with suppress(ProcessLookupError):
            send(rank.pid, number)
            return


_PEER_FAILED = signal.SIGQUIT  # sent to itself when another node has failed
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, _PEER_FAILED)


def threads_per_process(processes: int) -> int:
    """Returns the threads per process with which `processes` processes use each core once."""
    return max(1, len(os.sched_getaffinity(0)) // processes)


def set_threads(processes: int) -> None:
    """Sets OMP_NUM_THREADS to threads_per_process, unless it holds a number, or a list that begins with one."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if is_positive(asked.partition(",")[0]):
        return
    os.environ["OMP_NUM_THREADS"] = str(threads_per_process(processes))
    if asked.strip():
        print(f"OMP_NUM_THREADS={asked} is not a number of threads: using {os.environ['OMP_NUM_THREADS']}", flush=True)


def launch_ranks(run: RunFolder, rendezvous: Rendezvous, program: str, error_dir: Path) -> Failure | None:
    """Runs this node's ranks until they exit; returns the run's first failure, or None."""
    processes, attempt = run.read_plan().processes_per_node, rendezvous.attempt
    set_threads(processes)
    if rendezvous.interface:  # else gloo resolves the host name, and falls back to loopback
        os.environ.setdefault("GLOO_SOCKET_IFNAME", rendezvous.interface)
    arguments = (str(run.path), "--attempt", str(attempt), "--parent", str(os.getpid()), "--beats", str(error_dir))
    agent = Agent(spec_of(run, rendezvous, processes, program), starter(run, attempt, program, arguments, error_dir))
    limits = Limits.of(read_config(run).launcher)
    raise_on_signals()
    try:
        with (
            rendezvous.watched(lambda: os.kill(os.getpid(), _PEER_FAILED)),
            watched(run, rendezvous, error_dir, processes, limits),
        ):
            result: RunResult = agent.run()  # pyright: ignore[reportAssignmentType]  # a decorator hides it
    except SignalException as end:
        if end.sigval != _PEER_FAILED:
            raise
        return rendezvous.reported_failure() or Failure.of_run("the connection to the first node was lost")
    return first_failure(run, attempt, agent.failed(), error_dir) if result.is_failed() else None


def spec_of(run: RunFolder, rendezvous: Rendezvous, processes: int, program: str) -> WorkerSpec:
    """Returns the spec of this node's ranks: a static rendezvous of all nodes, without restarts."""
    parameters = RendezvousParameters(
        backend="static",
        endpoint=f"{rendezvous.address}:{rendezvous.port}",
        run_id=run.path.name,
        min_nodes=rendezvous.node.count,
        max_nodes=rendezvous.node.count,
        local_addr=rendezvous.address,
        rank=rendezvous.node.index,
    )
    return WorkerSpec(
        role="default",
        local_world_size=processes,
        entrypoint=program,
        rdzv_handler=get_rendezvous_handler(parameters),
        max_restarts=0,
        monitor_interval=0.1,
        master_addr=rendezvous.address,
        master_port=rendezvous.port,
        local_addr=rendezvous.address,
    )


def starter(
    run: RunFolder, attempt: int, program: str, arguments: Sequence[str], error_dir: Path
) -> Callable[[dict[str, str]], Rank]:
    """Returns a function that starts a rank with the given environment variables."""

    def start(variables: dict[str, str]) -> Rank:
        rank = int(variables["RANK"])
        spare = {"TORCHELASTIC_ERROR_FILE": str(error_dir / f"rank-{rank}.json")}
        return start_rank(program, arguments, variables | spare, run.rank_log(attempt, rank))

    return start


def raise_on_signals() -> None:
    """Makes each signal that ends this process raise SignalException, except those inherited as ignored."""

    def end(number: int, _: FrameType | None) -> None:
        raise SignalException(f"process {os.getpid()} got signal {number}", sigval=signal.Signals(number))

    for each in _ENDING:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, end)


def run_node(rendezvous: Rendezvous, run: RunFolder, program: str) -> Failure | None:
    """Runs this node's ranks, then leaves the rendezvous; returns the failure of the whole run, if any."""
    with tempfile.TemporaryDirectory(prefix="distft-") as error_dir:
        failure = launch_ranks(run, rendezvous, program, Path(error_dir))
    if failure is not None:
        rendezvous.report_failure(failure)
        failure = rendezvous.reported_failure() or failure
    rendezvous.leave()
    return failure


def join_rendezvous(run: RunFolder, given: argparse.Namespace) -> Rendezvous:
    """Joins the rendezvous that the command line describes; RendezvousError when it fails."""
    if given.nodes == 1:
        return open_alone(given.attempt)
    if given.join:
        host, _, port = given.join.rpartition(":")
        return join_at(run, host.strip("[]"), int(port), given.nodes)
    if given.node:
        return join(run, given.attempt, Node(given.node, given.nodes))
    return open_first(run, given.attempt, given.nodes, given.address, given.port)


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--attempt", type=int, default=0)
    parser.add_argument("--program", default="distft.rank")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--node", type=int, default=0, help="index of this node; 0 holds the store")
    parser.add_argument("--address", default="", help="of the first node, as others reach it")
    parser.add_argument("--port", type=int, default=0, help="of the first node; 0: a free one")
    parser.add_argument("--join", default="", help="HOST:PORT of the first node, instead of --attempt and --node")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 when every rank returned 0; else 1, with the failure on stdout."""
    given = read_arguments(arguments)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # for the ranks, which inherit this until they listen
    signal.signal(_PEER_FAILED, signal.SIG_DFL)  # a shell starts background jobs with it ignored
    answer = os.dup(1)
    os.dup2(2, 1)  # all other output goes to the log
    run = RunFolder(given.run)
    prepare(given.program, run)
    try:
        failure = run_node(join_rendezvous(run, given), run, given.program)
    except RendezvousError as error:
        failure = Failure.of_run(str(error))
    except SignalException as end:
        return 128 + end.sigval
    if failure is None:
        return 0
    with os.fdopen(answer, "w") as file:
        file.write(json_text(asdict(failure)) + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
