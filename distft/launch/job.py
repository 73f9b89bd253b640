"""The steps of a batch job: `python -m distft.launch.job begin RUN` before its ranks, `end RUN CODE` after them, and
`checked RUN` after the preflight; `without_module RUN MODULE` in place of all when the environment has no such module.

A scheduler restarts the job after a preemption, a time limit or a lost node, maybe with a different number of nodes.
So each start begins a new attempt and plans the same steps for the nodes it has.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from distft import goodput
from distft.config import Config, ConfigError, read_config
from distft.config.rules import broken_rules
from distft.config.rules.contract import Facts
from distft.data.order import Base, base_of
from distft.doctor.preflight import conclude, freeze_preflight
from distft.launch.benchmarks import add_rows, submit_or_say
from distft.launch.history import resumed
from distft.launch.restarts import CannotStart, check_progress, failure_line, may_restart, note, saved_step
from distft.launch.stages import write_results
from distft.launchers.contract import Outcome
from distft.launchers.outcome import note_end, write_outcome
from distft.launchers.slurm import commands
from distft.launchers.slurm.commands import (
    JobState,
    SlurmError,
    is_no_answer,
    job_state,
    seconds_left,
    slurm,
    with_retries,
)
from distft.launchers.slurm.job import BY_SCANCEL, read_job
from distft.launchers.slurm.node import BY_SCHEDULER
from distft.machines import node_range
from distft.plan import make_plan
from distft.run import EXIT_AGAIN, EXIT_PREEMPTED, FINISHED, Plan, RunFolder, Status, write_json
from distft.runtime import stop
from distft.runtime.errors import Failure
from distft.runtime.logs import last_lines

_SECONDS_OF_SLACK = 30  # SLURM enforces time limits with about this delay


class Taken(RuntimeError):
    """Another job owns the run; the message names it."""


def begin(run: RunFolder) -> int:
    """Prepares the run folder for one start of the ranks, and prints the number of nodes."""
    job = this_job(os.environ)
    config = read_config(run)
    check_alone(run, job)
    is_command = run.read_program() is not None  # it trains nothing, and starts anew after a preemption
    plan = run.read_plan()
    if not is_command:
        plan = for_nodes(plan, run, config, int(os.environ["SLURM_JOB_NUM_NODES"]))
    status = run.read_status()
    again = status.get("begun") == status["attempt"]  # else a launch began it, maybe after a fix
    before = status.get("starts", []) if again else []
    log = run.logs / "slurm.out"
    starts = [] if is_command else check_progress(run, config, status["attempt"], before, log)
    attempt, timeouts = status["attempt"] + again, status.get("timeouts", 0) if again else 0
    run.write_plan(plan)
    stop.clear(run)
    own = {"begun": attempt, "starts": starts, "timeouts": timeouts}
    own["restarts"] = status.get("restarts", 0) if again else 0
    run.write_status(state="pending", attempt=attempt, exit_code=None, error=None, **own)
    write_json(run.job, {"job": job, "attempt": attempt, "time": time.time()})
    goodput.note(run, "begun", attempt, queued=queued_at(job))
    nodes = os.environ["SLURM_JOB_NODELIST"]
    freeze_preflight(run, f"{job}.{os.environ.get('SLURM_RESTART_COUNT', '0')}")
    print(
        f"job {job}, attempt {attempt}: {plan.nodes} x {plan.processes_per_node} processes on {nodes}", file=sys.stderr
    )
    print(plan.nodes)
    return 0


def checked(run: RunFolder) -> int:
    """Prints the findings of the preflight; EXIT_PREEMPTED when the job is requeued without the faulty nodes."""
    names = slurm("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()
    return EXIT_PREEMPTED if conclude(run, this_job(os.environ), names[: run.read_plan().nodes]) else 0


def end(run: RunFolder, code: int) -> int:
    """Handles the end of the ranks: writes results, restarts them, or records why not."""
    status = run.read_status()
    if status["state"] in FINISHED and not code:
        note_end(run, status["state"])  # what comes now is no part of its training
        is_done = run.read_program() is not None or finish(run)
        write_outcome(run, Outcome(status["state"]))
        return 0 if is_done else 1
    if status["state"] != "preempted" and status["exit_code"] is not None:
        return status["exit_code"]
    job = own_state()
    saved_late = job is not None and job.is_past_limit and status["state"] == "preempted"  # no warning reached a rank
    if job is not None and job.name != "RUNNING" and not saved_late:
        # SLURM may restart it; else a waiting launch sees that it is gone
        if status["state"] == "preempted":
            unclear = f"{BY_SCHEDULER}SIGTERM: scancel or a preemption"  # of a job that is COMPLETING
            run.write_status(state="preempted", reason=BY_SCANCEL if job.is_cancelled else unclear)
        return code or EXIT_PREEMPTED
    if status["state"] == "pending" and any(map(is_no_answer, last_lines(run.logs / "slurm.out", 5))):
        print("srun got no answer from SLURM's controller, so no rank has started: retrying", file=sys.stderr)
        return EXIT_AGAIN
    if status["state"] != "preempted":
        error = status["error"] or asdict(why(run, status["attempt"], code))  # node 0 may have had no time to report
        outcome = Outcome("failed", error)
        if may_restart_in_job(run, status, outcome):
            return EXIT_AGAIN
        write_outcome(run, outcome)
        return outcome.exit_code
    if refusal := requeued(run, status, is_past_limit=saved_late):
        print(refusal, file=sys.stderr)
        write_outcome(run, Outcome("preempted"))
    return EXIT_PREEMPTED


def finish(run: RunFolder) -> bool:
    """Exports and reports a finished run, and submits its benchmarks; returns whether both results are there."""
    config = read_config(run)
    add_rows(run)  # of benchmarks that were measured while it trained
    is_done = write_results(run, export=config.export)
    submit_or_say(run, config, is_done=True)
    return is_done


def without_module(run: RunFolder, module: str) -> int:
    """Records that the job cannot set up its environment, with the error that `module load` printed."""
    log = run.logs / "slurm.out"
    lines = [line.strip() for line in last_lines(log, 20)]
    first = max((i for i, line in enumerate(lines) if "error" in line.lower()), default=len(lines) - 1)
    said = " ".join(lines[max(first, 0) :][:2]) or "nothing"  # advice of a page follows
    what = f"{socket.gethostname()}: launcher.modules: module load {module} failed. It printed: {said}"
    failure = Failure.of_run(f"{what}. Try: a name that `module avail` lists on that node", log)
    write_outcome(run, Outcome("failed", asdict(failure)))
    return 1


def this_job(given: Mapping[str, str]) -> str:
    """Returns the job id for SLURM's programs: 12, or 12_3 in an array."""
    if "SLURM_ARRAY_JOB_ID" in given:
        return f"{given['SLURM_ARRAY_JOB_ID']}_{given['SLURM_ARRAY_TASK_ID']}"
    return given["SLURM_JOB_ID"]


def queued_at(job: str) -> float | None:
    """Returns when the job was last queued; None if unknown.

    Waits for a controller that is down: srun, which runs next, needs it too and gives up at once.
    """
    try:
        return with_retries(lambda: job_state(job), commands.SECONDS_OF_JOB).queued
    except SlurmError:
        return None


def check_alone(run: RunFolder, job: str) -> None:
    """Raises Taken while another job owns the run: two jobs would overwrite each other's files."""
    other = read_job(run)
    if other and other != job and with_retries(lambda: job_state(other), commands.SECONDS_OF_JOB).is_alive:
        raise Taken(f"job {other} has {run.path} already. Try: scancel {other}, or another name")


def for_nodes(plan: Plan, run: RunFolder, config: Config, there: int) -> Plan:
    """Returns the plan for the most of `there` nodes that can share a step; CannotStart when no number can."""
    asked, manifest = config.launcher.nodes, resumed(run, config)
    if node_range(asked) == (plan.nodes, plan.nodes) and there == plan.nodes:
        is_current = base_of(manifest, plan.reads) == Base(plan.base_step, plan.base_row)
        return plan if is_current else make_plan(config, manifest, plan)  # killed as it went back over a window
    fewest, most = node_range(asked)
    for nodes in range(min(there, most), fewest - 1, -1):
        with_fewer = config.changed({"launcher.nodes": nodes})
        if any(broken_rules(Facts(with_fewer.values, config.choices, frozenset()), ())):
            continue
        now = make_plan(with_fewer, manifest, plan)
        laid_out = {"nodes": now.nodes, "world": now.world, "accumulation": now.accumulation, "memory": now.memory}
        return replace(plan, **laid_out, base_step=now.base_step, base_row=now.base_row, steps=now.steps)
    raise CannotStart(
        f"SLURM gave {there} nodes, launcher.nodes={asked}, and no such number divides a step. "
        f"Try: sbatch --nodes={plan.nodes}"
    )


def why(run: RunFolder, attempt: int, code: int) -> Failure:
    """Returns the failure that another node recorded, else one made from srun's exit code."""
    for file in sorted(run.rank_log(attempt, 0).parent.glob("node-*.error.json")):
        return Failure(**json.loads(file.read_text()))
    how = f"by {signal.Signals(code - 128).name}" if code > 128 else f"with code {code}"
    return Failure.of_run(f"srun ended {how} before the run was done; see its output", run.logs / "slurm.out")


def may_restart_in_job(run: RunFolder, status: Status, outcome: Outcome) -> bool:
    """Returns whether the ranks are to be started again on the nodes that the job has, and counts that."""
    done, most = status.get("restarts", 0), read_config(run).launcher.restarts
    if stop.requested(run, status["attempt"]) == f"{BY_SCHEDULER}SIGTERM":  # srun's own, to the other nodes' tasks
        stop.clear(run)
    if done >= most or not may_restart(run, outcome):
        return False
    assert outcome.error is not None
    note_end(run, outcome.state, outcome.error)
    print(f"{failure_line(outcome.error)}. Restart {done + 1} of {most}", file=sys.stderr)
    config = read_config(run)
    note(run, status["attempt"], outcome.error, saved_step(run, config))
    run.write_status(state="pending", restarts=done + 1, error=None)
    return True


def requeued(run: RunFolder, status: Status, *, is_past_limit: bool) -> str | None:
    """Requeues this job, once; returns the reason if it does not."""
    job, reason = this_job(os.environ), stop.requested(run, status["attempt"]) or ""
    if not reason.startswith(BY_SCHEDULER):
        return f"saved and stopped: {reason or 'on request'}"
    try:
        left = 0 if is_past_limit else with_retries(lambda: seconds_left(job), commands.SECONDS_OF_JOB)
        timeouts = status.get("timeouts", 0) + is_near_limit(run, left)
        most = read_config(run).launcher.max_timeouts  # a run frozen for another launcher has none
        if timeouts > most:
            return f"saved and stopped: {most} time limits were reached (launcher.max_timeouts)"
        run.write_status(timeouts=timeouts)
        print(f"saved at step {status['step']} ({reason}), requeueing", file=sys.stderr)
        with_retries(lambda: slurm("scontrol", "requeue", job), commands.SECONDS_OF_JOB)
    except SlurmError as error:
        return f"saved and stopped: SLURM refused to requeue it: {error}"
    return None


def own_state() -> JobState | None:
    """Returns the state of this job, None if unknown. It is not RUNNING once SLURM takes its nodes away: the job was
    cancelled or already requeued."""
    try:
        return with_retries(lambda: job_state(this_job(os.environ)), commands.SECONDS_OF_JOB)
    except SlurmError:
        return None


def is_near_limit(run: RunFolder, left: int | None) -> bool:
    """Returns whether a warning is of the time limit, not of a preemption."""
    warned = read_config(run).launcher.warning_seconds
    return left is not None and left <= warned + _SECONDS_OF_SLACK


def main(arguments: list[str]) -> int:
    verb, path, *rest = arguments
    run = RunFolder(Path(path))
    try:
        if verb == "checked":
            return checked(run)
        if verb == "without_module":
            return without_module(run, rest[0])
        return begin(run) if verb == "begin" else end(run, int(rest[0]))
    except (Taken, SlurmError) as error:
        print(error, file=sys.stderr)
    except (CannotStart, ConfigError) as error:
        print(error, file=sys.stderr)
        write_outcome(run, Outcome("failed", asdict(Failure.of_run(str(error)))))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
