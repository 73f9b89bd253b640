"""One node's part of a SLURM job: `python -m distft.launchers.slurm.node RUN`, one task on each node.

It checks the allocation against the plan, then starts the elastic process, which starts the ranks; or the command of
distft that the folder holds in their place.
Trap: SLURM signals every process of a step. The ranks save at the next step boundary; this process only records the
signal in the run folder, since a rank may not listen yet; the elastic process ignores it.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from distft.config.freeze import read_config
from distft.launchers.contract import Outcome
from distft.launchers.fork_server import ForkServer
from distft.launchers.outcome import elastic_log, outcome_of, write_outcome
from distft.launchers.slurm import commands
from distft.launchers.slurm.commands import SlurmError, node_address, with_retries
from distft.run import Plan, RunFolder, write_json
from distft.runtime import stop
from distft.runtime.errors import Failure
from distft.runtime.logs import last_lines
from distft.runtime.process import start_bound

_LINES_OF_A_COMMAND = 12  # of its output, in the message when it fails
BY_SCHEDULER = "SLURM sent "  # prefix of the reason when the job itself requests the stop


def main() -> int:
    """Returns 0 when the run completed or was preempted, 1 when it failed."""
    run = RunFolder(Path(sys.argv[1]))
    attempt, node = run.read_status()["attempt"], int(os.environ["SLURM_NODEID"])
    noted: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        noted.append(number)  # first: another signal may arrive during the write
        if node == 0 and len(noted) == 1 and stop.requested(run, attempt) is None:
            stop.request(run, attempt, BY_SCHEDULER + signal.Signals(number).name)

    for number in stop.SIGNALS:
        signal.signal(number, note)
    plan = run.read_plan()
    wrong = mismatch(plan, os.environ)
    if wrong:
        outcome = Outcome("failed", asdict(Failure.of_run(f"node {node} ({socket.gethostname()}): {wrong}")))
    elif words := run.read_program():
        outcome = run_program(run, attempt, words)
        if outcome.error and noted:  # SLURM ends the job: its state says how, and a requeued one starts anew
            return 1
    else:
        with benchmarked(run, node):
            outcome = run_ranks(run, attempt, node, plan)
    if outcome.error and node == 0 and read_config(run).launcher.restarts:  # the job decides
        run.write_status(state="failed", error=outcome.error)
    elif outcome.error and node == 0:  # success is written after export and report
        write_outcome(run, outcome)
    elif outcome.error:
        write_json(run.rank_error(attempt, 0).with_name(f"node-{node}.error.json"), outcome.error)
    return 1 if outcome.error else 0


def run_ranks(run: RunFolder, attempt: int, node: int, plan: Plan) -> Outcome:
    """Runs this node's ranks until they exit."""
    log = elastic_log(run, attempt, node)
    arguments = [str(run.path), "--attempt", str(attempt)]
    arguments += ["--nodes", str(plan.nodes), "--node", str(node), "--address", own_address()]
    ended = ForkServer().start(arguments, log).wait()
    assert ended is not None
    return outcome_of(run, ended.code, ended.said, log)


@contextmanager
def benchmarked(run: RunFolder, node: int) -> Iterator[None]:
    """On the first node, submits a job for each checkpoint to measure, as eval.benchmarks_every_steps asks."""
    config = read_config(run)
    watcher = None
    if node == 0 and config.eval.benchmarks and config.eval.benchmarks_every_steps:
        watcher = start_bound([sys.executable, "-m", "distft.launch.benchmarks", str(run.path)], stop.SIGNALS)
    try:
        yield
    finally:
        if watcher is not None:
            watcher.kill()
            watcher.wait()


def run_program(run: RunFolder, attempt: int, words: Sequence[str]) -> Outcome:
    """Runs a command of distft in place of ranks; its errors are in the log of the attempt."""
    log = elastic_log(run, attempt).with_name("command.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    run.write_status(state="running")
    command = [sys.executable, "-m", *words]
    with run.program_output.open("w") as output, log.open("w") as errors:
        code = start_bound(command, [signal.SIGUSR1], stdin=subprocess.DEVNULL, stdout=output, stderr=errors).wait()
    if code:
        said = "\n".join(last_lines(log, _LINES_OF_A_COMMAND)) or "nothing was printed"
        return Outcome("failed", asdict(Failure.of_run(f"{words[0]} ended with code {code}: {said}", log)))
    run.write_status(state="completed")
    return Outcome("completed")


def own_address() -> str:
    """Returns SLURM's address of this node, which needs no name resolution; empty when unknown."""
    try:
        return with_retries(lambda: node_address(os.environ.get("SLURMD_NODENAME", "")), commands.SECONDS_OF_COMMAND)
    except SlurmError:
        return ""


def mismatch(plan: Plan, given: Mapping[str, str]) -> str | None:
    """Returns how the step's nodes, tasks or GPUs differ from the plan's, None if they match."""
    nodes, tasks = int(given.get("SLURM_STEP_NUM_NODES", "1")), int(given.get("SLURM_STEP_NUM_TASKS", "1"))
    if (nodes, tasks) != (plan.nodes, plan.nodes):
        return (
            f"srun started {tasks} tasks on {nodes} nodes, the plan is for {plan.nodes} nodes with one task each. "
            f"Try: srun --nodes={plan.nodes} --ntasks-per-node=1"
        )
    if int(given.get("SLURM_LOCALID", "0")):
        return "two tasks of one node would both start its ranks. Try: srun --ntasks-per-node=1"
    visible = given.get("CUDA_VISIBLE_DEVICES", given.get("ROCR_VISIBLE_DEVICES"))
    if visible == "NoDevFiles":  # older SLURM without requested GPUs; newer versions leave it empty
        visible = None
    gpus = len([device for device in visible.split(",") if device.strip()]) if visible is not None else None
    if gpus is not None and gpus < plan.processes_per_node:
        return (
            f"{gpus} GPUs are visible ({visible}), the plan has {plan.processes_per_node} processes on a node. "
            f"Try: --gpus-per-node={plan.processes_per_node}"
        )
    return None


if __name__ == "__main__":
    sys.exit(main())
