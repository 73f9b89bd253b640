"""The ranks of one node: torch's elastic agent, with a say in how a rank is started and how it ends."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

from torch.distributed.elastic.agent.server.api import (
    RunResult,
    SimpleElasticAgent,
    Worker,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from distft.compat.elastic import agent_options
from distft.launchers.ranks import Rank
from distft.runtime.errors import Exit
from distft.runtime.logs import Patient

_SECONDS_TO_END = 3  # from SIGTERM, which a rank only notes, to SIGKILL for the ranks that are left


class Agent(SimpleElasticAgent):
    """Starts the ranks of a node once, and ends all of them as soon as one has failed."""

    def __init__(self, spec: WorkerSpec, start: Callable[[dict[str, str]], Rank]) -> None:
        """start: a rank with these variables in its environment."""
        super().__init__(spec, **agent_options(_SECONDS_TO_END))
        self._exits: dict[int, Exit] = {}  # by the rank among all
        self._start = start
        self._ranks: dict[int, Rank] = {}

    def failed(self) -> dict[int, Exit]:
        """Returns how the ranks of this node ended that did not end well."""
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
        first = signal.SIGKILL if death_sig == signal.SIGQUIT else death_sig  # QUIT has each leave a core file
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
                told = f"{datetime.now()} rank {number} (process {rank.pid}) ended with {code}"
                print(told, file=Patient(sys.stderr))  # a disk may be full

    def _failure(self, rank: int, code: int) -> ProcessFailure:
        return ProcessFailure(local_rank=rank, pid=self._ranks[rank].pid or 0, exitcode=code, error_file="")


def variables(worker: Worker, group: WorkerGroup) -> dict[str, str]:
    """Returns what torchrun puts into a worker's environment.

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
    for send in (os.killpg, os.kill):  # the second: it has not become the leader of its group yet
        with suppress(ProcessLookupError):
            send(rank.pid, number)
            return
