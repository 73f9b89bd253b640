"""Starts one node's ranks through torch's elastic launch: `python -m distft.launchers.elastic RUN --attempt N`.

When a rank fails the others are ended, on all nodes, and one JSON line on stdout names the one that failed first.
Trap: a signal that this process was started to ignore stays ignored; under a scheduler it is meant for the ranks.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from torch.distributed.elastic.agent.server.api import RunResult, WorkerSpec
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from distft.config.machines import is_positive
from distft.launchers.agent import Agent
from distft.launchers.limits import Limits
from distft.launchers.meeting import Meeting, Node, NotMet, join, join_at, open_alone, open_first
from distft.launchers.ranks import Rank, prepare, start_rank
from distft.launchers.watchdog import watched
from distft.run import RunFolder, json_text
from distft.runtime.errors import Failure, first_failure

_PEER_FAILED = signal.SIGQUIT  # to itself: ends the ranks of a node when another node's have failed
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, _PEER_FAILED)


def threads_per_process(processes: int) -> int:
    """Returns the number of threads with which `processes` processes use every core once."""
    return max(1, len(os.sched_getaffinity(0)) // processes)


def set_threads(processes: int) -> None:
    """Puts that number into OMP_NUM_THREADS unless it holds a number of threads, or a list that begins with one."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if is_positive(asked.partition(",")[0]):
        return
    os.environ["OMP_NUM_THREADS"] = str(threads_per_process(processes))
    if asked.strip():
        print(f"OMP_NUM_THREADS={asked} is no number of threads: {os.environ['OMP_NUM_THREADS']} are used", flush=True)


def launch_ranks(run: RunFolder, meeting: Meeting, program: str, error_dir: Path) -> Failure | None:
    """Runs this node's ranks to their end; returns the run's first failure, or None."""
    processes, attempt = run.read_plan().processes_per_node, meeting.attempt
    set_threads(processes)
    if meeting.interface:  # else gloo asks for the address of the host's name, and takes loopback when there is none
        os.environ.setdefault("GLOO_SOCKET_IFNAME", meeting.interface)
    arguments = (str(run.path), "--attempt", str(attempt), "--parent", str(os.getpid()), "--beats", str(error_dir))
    agent = Agent(spec_of(run, meeting, processes, program), starter(run, attempt, program, arguments, error_dir))
    limits = Limits.of(run.read_config().get("launcher", {}))
    raise_on_signals()
    try:
        with (
            meeting.watched(lambda: os.kill(os.getpid(), _PEER_FAILED)),
            watched(run, meeting, error_dir, processes, limits),
        ):
            result: RunResult = agent.run()  # pyright: ignore[reportAssignmentType]  # a decorator hides it
    except SignalException as end:
        if end.sigval != _PEER_FAILED:
            raise
        return meeting.told() or Failure.of_run("the connection to the first node was lost")
    return first_failure(run, attempt, agent.failed(), error_dir) if result.is_failed() else None


def spec_of(run: RunFolder, meeting: Meeting, processes: int, program: str) -> WorkerSpec:
    """Returns how many ranks there are and where they meet: all nodes must be there, and none comes back."""
    rendezvous = RendezvousParameters(
        backend="static",
        endpoint=f"{meeting.address}:{meeting.port}",
        run_id=run.path.name,
        min_nodes=meeting.node.count,
        max_nodes=meeting.node.count,
        local_addr=meeting.address,
        rank=meeting.node.index,
    )
    return WorkerSpec(
        role="default",
        local_world_size=processes,
        entrypoint=program,
        rdzv_handler=get_rendezvous_handler(rendezvous),
        max_restarts=0,
        monitor_interval=0.1,
        master_addr=meeting.address,
        master_port=meeting.port,
        local_addr=meeting.address,
    )


def starter(
    run: RunFolder, attempt: int, program: str, arguments: Sequence[str], error_dir: Path
) -> Callable[[dict[str, str]], Rank]:
    """Returns what starts a rank with given variables."""

    def start(variables: dict[str, str]) -> Rank:
        rank = int(variables["RANK"])
        spare = {"TORCHELASTIC_ERROR_FILE": str(error_dir / f"rank-{rank}.json")}
        return start_rank(program, arguments, variables | spare, run.rank_log(attempt, rank))

    return start


def raise_on_signals() -> None:
    """Has every signal that ends this process raise SignalException, except what it was started to ignore."""

    def end(number: int, _: FrameType | None) -> None:
        raise SignalException(f"process {os.getpid()} got signal {number}", sigval=signal.Signals(number))

    for each in _ENDING:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, end)


def run_node(meeting: Meeting, run: RunFolder, program: str) -> Failure | None:
    """Runs the ranks of this node and parts from the others; returns the failure that the whole run has ended with."""
    with tempfile.TemporaryDirectory(prefix="distft-") as error_dir:
        failure = launch_ranks(run, meeting, program, Path(error_dir))
    if failure is not None:
        meeting.tell(failure)
        failure = meeting.told() or failure
    meeting.part()
    return failure


def meet(run: RunFolder, given: argparse.Namespace) -> Meeting:
    """Returns this node's meeting with the others, as the command line says; NotMet when they do not come together."""
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
    parser.add_argument("--node", type=int, default=0, help="0 is the first, which the others look for")
    parser.add_argument("--address", default="", help="of the first node, as others know it")
    parser.add_argument("--port", type=int, default=0, help="of the first node; 0: a free one")
    parser.add_argument("--join", default="", help="HOST:PORT of the first node, instead of --attempt and --node")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 when every rank did; else 1, with the failure on stdout."""
    given = read_arguments(arguments)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # meant for the ranks, which begin like that until they listen
    signal.signal(_PEER_FAILED, signal.SIG_DFL)  # its own; what a script starts with & was started to ignore it
    answer = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed goes to the log
    run = RunFolder(given.run)
    prepare(given.program, run)
    try:
        failure = run_node(meet(run, given), run, given.program)
    except NotMet as error:
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
