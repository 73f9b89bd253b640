"""Launches a tiny run and repeats the same command, if needed, until it ends.

It is needed after the launch process was killed, and after a stop request (exit code 75).
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distft.run import EXIT_PREEMPTED, RunFolder
from tests.chaos.faults import EVALUATE, EVERY, LAUNCHER, STOPS, Fault, folder_of, last_step, write
from tests.support.rows import write_sums

HANG_SECONDS, OUTSIDE_SECONDS = 5, 60
SECONDS_AT_MOST = 1500  # of a run with all its faults


class NotDone(RuntimeError):
    """A run did not come to its end by itself; the message has its last words."""


@dataclass
class Harmed:
    """A run, what was done to it, and when its command was typed."""

    run: RunFolder
    faults: list[Fault]
    typed: list[float] = field(default_factory=list)
    ended: float = 0.0
    taken: dict[int, socket.socket] = field(default_factory=dict)  # by fault: ports that another program has
    reported: str = ""

    @property
    def folder(self) -> Path:
        return folder_of(self.run.path)

    def fired(self) -> dict[int, dict[str, Any]]:
        """Returns when, in which attempt and after which step each fault came."""
        files = self.folder.glob("fired-*.json")
        return {int(file.stem.removeprefix("fired-")): json.loads(file.read_text()) for file in files}

    def steps(self) -> list[dict[str, Any]]:
        return lines(self.folder / "steps.jsonl")

    def restarts(self) -> list[dict[str, Any]]:
        return lines(self.run.path / "restarts.jsonl")


def lines(file: Path) -> list[dict[str, Any]]:
    whole = file.read_text().splitlines(keepends=True) if file.is_file() else []
    return [json.loads(line) for line in whole if line.endswith("\n")]


def settings(folder: Path, run: RunFolder, faults: Sequence[Fault], ranks: int, *overrides: str) -> list[str]:
    """Returns the command line of a run that ends after its last fault."""
    if not (folder / "rows.jsonl").is_file():
        write_sums(folder)
    given = ["model=gpt2", "model.tiny=true", "data.eval=0.2", f"data.train={folder / 'rows.jsonl'}", "export=false"]
    given += ["train.epochs=null", "train.global_batch_size=8", "train.micro_batch_size=2", "eval.at_ends=false"]
    given += [f"train.max_steps={last_step(faults)}", f"eval.every_steps={EVALUATE}"]
    given += [f"checkpoint.every_steps={EVERY}", f"launcher.processes_per_node={ranks}", "launcher.restarts=99"]
    given += [f"launcher.hang_seconds={HANG_SECONDS}", f"launcher.hang_seconds_outside={OUTSIDE_SECONDS}"]
    given += [f"runs_dir={run.path.parent}", f"cache_dir={folder / 'cache'}", f"name={run.path.name}"]
    return [*given, "launcher.program=tests.chaos.rank", *overrides]


def bring_to_end(run: RunFolder, faults: Sequence[Fault], command: Sequence[str]) -> Harmed:
    """Returns the run that has ended well; NotDone when it would have taken another hand."""
    harmed = Harmed(run, list(faults))
    write(harmed.folder, faults)
    while True:
        harmed.typed.append(time.time())
        code, said = follow(harmed, command)
        harmed.reported += said
        if code == 0:
            harmed.ended = time.time()
            return harmed
        if not may_type_again(harmed, code):
            raise NotDone(f"{run.path}: exit code {code} at {time.time():.1f}\n{said[-3000:]}")


def follow(harmed: Harmed, command: Sequence[str]) -> tuple[int, str]:
    """Types the command; returns its exit code and words. A port that a fault leaves free is taken meanwhile."""
    log = harmed.folder / f"launch-{len(harmed.typed)}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "distft.launch", *command],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        )  # fmt: skip
    deadline = time.monotonic() + SECONDS_AT_MOST
    wanted = {fault.number for fault in harmed.faults if fault.kind == "port"}
    while process.poll() is None:
        for number in (wanted & harmed.fired().keys()) - harmed.taken.keys():
            harmed.taken[number] = take(int(harmed.fired()[number]["port"]))
        if time.monotonic() > deadline:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            raise NotDone(f"{harmed.run.path}: not done in {SECONDS_AT_MOST} s\n{log.read_text()[-3000:]}")
        time.sleep(0.01)
    return process.returncode, log.read_text()


def may_type_again(harmed: Harmed, code: int) -> bool:
    """Returns whether a fault of this launch ended the command, so that the same command should continue the run."""
    since = [harmed.faults[number].kind for number, at in harmed.fired().items() if at["time"] > harmed.typed[-1]]
    if code == EXIT_PREEMPTED:
        return any(kind in STOPS for kind in since)
    return code == -signal.SIGKILL and any(kind in LAUNCHER for kind in since)


def take(port: int) -> socket.socket:
    """Returns a socket that has the port, as soon as it is free."""
    deadline = time.monotonic() + 30
    while True:
        taker = socket.socket(socket.AF_INET6)  # as the store's: of both families
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past what the kernel keeps of old connections
        try:
            taker.bind(("::", port))
            taker.listen()
            return taker
        except OSError:
            taker.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)
