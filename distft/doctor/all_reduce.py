"""An all-reduce started like a run, through torch elastic: `python -m distft.doctor.all_reduce`.

It runs on every node; the last line on stdout is the result as JSON.
Trap: a collective without a peer waits for half an hour, so an alarm ends this one.
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from distft.compat.elastic import launch_options
from distft.doctor.network import AllReduce
from distft.doctor.rank import Progress
from distft.run import read_json
from distft.runtime.logs import last_lines, silence

_WAITS = ("timeout", "join_timeout")  # of the rendezvous, in C++, which an alarm does not interrupt
_ENDED = 3  # seconds from SIGTERM to SIGKILL for ranks that are left


def main() -> int:
    """Prints the result as JSON and returns 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--endpoint", default="localhost:0", help="of the first node; a fresh port of this one")
    parser.add_argument("--address", default="127.0.0.1", help="of this node")
    parser.add_argument("--node", type=int, default=0, help="number of this node; 0 is the endpoint's")
    parser.add_argument("--seconds", type=float, default=50)
    given = parser.parse_args()
    answer = os.dup(1)
    os.dup2(2, 1)  # all other output goes to stderr
    silence()
    with tempfile.TemporaryDirectory(prefix="distft-") as folder:
        result = reduce(given, Path(folder))
    with os.fdopen(answer, "w") as file:
        print(json.dumps(asdict(result)), file=file)
    return 0


def reduce(given: argparse.Namespace, folder: Path) -> AllReduce:
    """Starts the ranks of this node, and returns the result of all ranks."""
    processes = torch.accelerator.device_count() or (2 if given.nodes == 1 else 1)
    if given.nodes == 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # as a run on one machine does
    config = LaunchConfig(
        min_nodes=given.nodes,
        max_nodes=given.nodes,
        nproc_per_node=processes,
        run_id="doctor",
        # c10d identifies nodes by host name and process id, which may be equal where names resolve to loopback
        rdzv_backend="c10d" if given.nodes == 1 else "static",
        rdzv_endpoint=given.endpoint,
        rdzv_configs={"rank": given.node, "is_host": given.node == 0, **dict.fromkeys(_WAITS, given.seconds)},
        local_addr=given.address,
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs"), redirects=Std.ALL),
        **launch_options(_ENDED),
    )
    failure = ""
    signal.signal(signal.SIGALRM, _too_late)
    signal.setitimer(signal.ITIMER_REAL, given.seconds)
    started = time.monotonic()
    try:
        elastic_launch(config, sys.executable)("-m", "distft.doctor.rank", str(folder), "--parent", str(os.getpid()))
    except TimeoutError:
        failure = f"not done within {given.seconds:g} s"
    except Exception as error:  # a rank's failure, or the rendezvous's
        failure = (str(error).strip() or type(error).__name__).splitlines()[0]
    signal.setitimer(signal.ITIMER_REAL, 0)
    return merged(folder, failure, processes * given.nodes, time.monotonic() - started)


def merged(folder: Path, failure: str, processes: int, seconds: float) -> AllReduce:
    """Merges the ranks' results; the failure of a rank comes before that of the agent."""
    ranks = [Progress(**read_json(file)) for file in sorted(folder.glob("rank-*.json"))]
    failed = [reason for rank in ranks for reason in rank.failed]
    if failure and not failed:
        stages = [f"rank {rank.rank} on {rank.host} {rank.stage}" for rank in ranks]
        last = [line for log in sorted((folder / "logs").rglob("stderr.log")) for line in last_lines(log, 1)]
        failed = [f"{failure} on {platform.node()}", *stages, *last[:1]]
    result = AllReduce(
        failed="; ".join(dict.fromkeys(failed)),
        processes=processes,
        seconds=max((rank.seconds for rank in ranks), default=seconds),
    )
    return replace(result, backend=ranks[0].backend, interface=ranks[0].interface) if ranks else result


def _too_late(*_: object) -> None:
    raise TimeoutError


if __name__ == "__main__":
    sys.exit(main())
