"""A worker without a model: it steps, connects to its peers, and fails as its config.yaml requests."""

import argparse
import atexit
import json
import os
import signal
import time
from pathlib import Path

from distft.run import RunFolder
from distft.runtime import errors, heartbeat, logs, process, stacks, stop


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--attempt", type=int)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--beats", type=Path)
    given = parser.parse_args()
    process.die_with_parent(given.parent)
    run, rank = RunFolder(given.run), int(os.environ["RANK"])
    if given.beats:
        stacks.answer(given.beats / f"rank-{rank}.stacks")
        heartbeat.begin(given.beats, rank)
    logs.redirect(run.rank_log(given.attempt, rank))
    with errors.record(run, given.attempt, rank):
        print(f"rank {rank} in attempt {given.attempt} with {os.environ['OMP_NUM_THREADS']} threads")
        train(run, given.attempt, rank)


def train(run: RunFolder, attempt: int, rank: int) -> None:
    config = run.read_config()
    meet = make_meeting() if config.get("collective") else lambda: None
    if rank == 0:
        run.write_status(state="running")
    state = "completed"
    for step in range(1, config["steps"] + 1):
        heartbeat.begin_step(step)
        time.sleep(config.get("seconds", 0.02))
        heartbeat.enter("forward")
        if step == 3 and rank == config.get("bad_rank"):
            misbehave(config["bad"])
        meet()
        if rank == 0:
            log_row(run, step)
        if not config.get("deaf") and stop.requested(run, attempt):
            state = "preempted"
            break
    if rank == 0:
        run.write_status(state=state, step=step)


def make_meeting():
    """Returns a function in which all ranks wait for each other."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    counting = heartbeat.counting_collectives()
    counting.__enter__()
    atexit.register(counting.__exit__, None, None, None)
    return dist.barrier


def misbehave(how: str) -> None:
    """Fails in the way a test requested."""
    if how == "raise":
        raise ValueError("row 7 has no label")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        print("a library gave up")
        os._exit(3)
    if how == "sleep":
        time.sleep(3600)
    if how == "lock":
        sum(iter(int, 1))  # an endless loop in C, which never gives the interpreter's lock away
    if how == "SIGSTOP":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "save":
        with heartbeat.during("checkpoint"):
            time.sleep(15)


def log_row(run: RunFolder, step: int) -> None:
    row = {"step": step, "split": "train", "loss": 1 / step, "seconds": 0.02, "tokens": 10, "peak_memory_gib": 0.1}
    with run.metrics.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
