"""Starts the ranks of one run through torch's elastic launch: `python -m distft.launchers.elastic RUN --attempt N`.

When a rank fails the others are ended, and one JSON line on stdout names the one that failed first.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from distft.run import RunFolder
from distft.runtime.errors import Exit, Failure, first_failure

_SECONDS_TO_END = 3  # from SIGTERM, which a rank only notes, to SIGKILL for the ranks that are left


class RankLogs(LogsSpecs):
    """Sends each rank's stderr to its log from the first byte on, so that a failing import is seen there too."""

    def __init__(self, run: RunFolder, attempt: int, error_dir: Path):
        super().__init__()
        self._run = run
        self._attempt = attempt
        self._error_dir = error_dir

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        ranks = {local_rank: int(env["RANK"]) for local_rank, env in envs.items()}
        logs = {local_rank: str(self._run.rank_log(self._attempt, rank)) for local_rank, rank in ranks.items()}
        errors = {local_rank: str(self._error_dir / f"rank-{rank}.json") for local_rank, rank in ranks.items()}
        for local_rank, env in envs.items():
            env["TORCHELASTIC_ERROR_FILE"] = errors[local_rank]
        return LogsDest(stdouts=dict.fromkeys(envs, ""), stderrs=logs, error_files=errors)

    @property
    def root_log_dir(self) -> str:
        return str(self._error_dir)


def threads_per_process(processes: int) -> int:
    """Returns the number of threads with which `processes` processes use every core once."""
    return max(1, len(os.sched_getaffinity(0)) // processes)


def launch_ranks(run: RunFolder, attempt: int, program: str, error_dir: Path) -> Failure | None:
    """Runs all ranks to their end; returns the first failure, or None."""
    processes = run.read_plan().processes_per_node
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_process(processes)))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine: no need for its name to resolve
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=run.path.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # a fresh port
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
        shutdown_timeout=_SECONDS_TO_END,
        logs_specs=RankLogs(run, attempt, error_dir),
    )
    command = ("-m", program, str(run.path), "--attempt", str(attempt), "--parent", str(os.getpid()))
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as error:
        exits = {rank: Exit(failure.exitcode, failure.timestamp) for rank, failure in error.failures.items()}
        return first_failure(run, attempt, exits, error_dir)
    return None


def main() -> int:
    """Returns 0 when every rank did; else 1, with the failure on stdout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--program", default="distft.rank")
    given = parser.parse_args()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # meant for the ranks, which begin like that until they listen
    answer = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed goes to the log
    with tempfile.TemporaryDirectory(prefix="distft-") as error_dir:
        try:
            failure = launch_ranks(RunFolder(given.run), given.attempt, given.program, Path(error_dir))
        except SignalException as end:
            return 128 + end.sigval
    if failure is None:
        return 0
    with os.fdopen(answer, "w") as file:
        json.dump(asdict(failure), file)
    return 1


if __name__ == "__main__":
    sys.exit(main())
