"""Injects faults into one run on the practice cluster.

`python -m tests.chaos.cluster faults=10 seed=0 kinds=rank,hang out=DIR`

The faults come from outside, as SLURM's do, each when the run has got to its step. The same command is typed again
only after scancel and after the launching process was killed.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distft.launchers.slurm.job import read_job
from distft.run import RunFolder
from tests.chaos.measure import Cost, differences
from tests.chaos.table import table, write
from tests.support.fake_run import name_of, processes_of
from tests.support.rows import write_sums

sys.path.insert(0, str(Path(__file__).parents[2] / "slurm"))  # a script of its own, no part of the package
from practice_cluster import Cluster

IN_JOB = ("rank", "agent", "hang")  # the job starts its ranks again
REQUEUED = ("requeue", "USR1", "node down", "slurmd")  # SLURM starts the job again
TYPED = ("scancel", "launcher")
KINDS = (*IN_JOB, *REQUEUED, *TYPED, "controller")
NO_LOSS = ("USR1", "launcher", "controller")
EVERY, GAP, FIRST = 10, 40, 25  # steps: between saves, between faults, to the first
HANG_SECONDS, OUTSIDE_SECONDS, SECONDS_AT_MOST = 5, 60, 240


class NotDone(RuntimeError):
    """The run did not continue after a fault, which the message names."""


@dataclass
class Harm:
    """One run under faults."""

    cluster: Cluster
    run: RunFolder
    command: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    typed: int = 0
    found: list[Cost] = field(default_factory=list)

    def type(self) -> None:
        """Types the command, again where it was typed before."""
        self.typed += 1
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command, env=os.environ | self.cluster.environment | {"OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def step(self) -> int:
        return max((row["step"] for row in self.run.read_metrics("train")), default=0)

    def wait_for_step(self, step: int, attempt: int = 1) -> None:
        """Returns when an attempt from `attempt` on has made the step, or a later one."""
        deadline = time.monotonic() + SECONDS_AT_MOST
        while self.run.read_status()["attempt"] < attempt or self.step < step:
            if time.monotonic() > deadline or (self.process and self.process.poll() not in (None, -signal.SIGKILL)):
                raise NotDone(f"no step {step} of attempt {attempt}: {self.log.read_text()[-3000:]}")
            time.sleep(0.05)

    def processes(self, name: str) -> list[int]:
        return sorted(pid for pid in processes_of(self.run) if name_of(pid).startswith(name))

    def do(self, kind: str, chance: random.Random) -> None:
        """Makes one fault, and what an administrator does about a machine that is gone."""
        job, node = str(read_job(self.run)), chance.choice(self.nodes())
        if kind in ("rank", "hang"):
            os.kill(chance.choice(self.processes("rank")), signal.SIGKILL if kind == "rank" else signal.SIGSTOP)
        elif kind == "agent":
            os.kill(chance.choice(self.processes("elastic")), signal.SIGKILL)
        elif kind == "requeue":
            self.cluster.ask("scontrol", "requeue", job)
        elif kind == "USR1":
            self.cluster.ask("scancel", "--signal=USR1", job)
        elif kind == "node down":
            self.cluster.power_off(node)
            time.sleep(3)
            self.cluster.power_on(node)
        elif kind == "slurmd":  # its node is lost too, and the controller is not notified
            self.kill("slurmd", node)
            deadline = time.monotonic() + SECONDS_AT_MOST
            while "down" not in self.cluster.ask("sinfo", "-h", "-n", node, "-p", "main", "-o", "%T"):
                if time.monotonic() > deadline:
                    raise NotDone(f"the controller has not missed {node}")
                time.sleep(0.5)
            self.cluster.power_on(node)
        elif kind == "controller":
            self.kill("slurmctld", "")
            time.sleep(3)
            self.cluster._spawn("slurmctld", ["slurmctld", "-D"])
        elif kind == "scancel":
            self.cluster.ask("scancel", job)
            self.end_of_launch()
            self.type()
        elif kind == "launcher":
            assert self.process is not None
            self.process.kill()
            self.end_of_launch()
            self.type()

    def nodes(self) -> list[str]:
        job = str(read_job(self.run))
        hosts = self.cluster.ask("squeue", "-h", "-j", job, "-o", "%N").strip()
        return self.cluster.ask("scontrol", "show", "hostnames", hosts).split()

    def kill(self, daemon: str, node: str) -> None:
        for name, pid in list(self.cluster.daemons()):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if name == daemon and (not node or node.encode() in words):
                os.kill(pid, signal.SIGKILL)

    def end_of_launch(self) -> int:
        assert self.process is not None
        return self.process.wait(SECONDS_AT_MOST)

    def harm(self, number: int, kind: str, chance: random.Random) -> None:
        """Makes a fault and waits for the next step that is made after it; what it cost is added to `found`."""
        self.wait_for_step(FIRST + number * GAP)
        attempt, done = self.run.read_status()["attempt"], self.step
        began = time.time()
        self.do(kind, chance)
        ends = kind not in ("launcher", "controller")
        self.wait_for_step(0 if ends else done + 1, attempt + ends)
        first = self.first_step_of(attempt + 1) if ends else done + 1
        cost = Cost(
            number, kind, -1, "", done, True, HANG_SECONDS if kind == "hang" else 0.0,
            next_step_seconds=time.time() - began, lost_steps=max(0, done - first + 1),
        )  # fmt: skip
        self.found.append(cost)
        print(f"{kind} at step {done}: next step {first} after {cost.next_step_seconds:.1f} s", flush=True)

    def first_step_of(self, attempt: int) -> int:
        """Returns the first step that an attempt makes, when it is made; rows of later steps are cut before it."""
        log, deadline = self.run.rank_log(attempt, 0), time.monotonic() + SECONDS_AT_MOST
        while self.run.read_status()["state"] != "running" or not log.is_file():
            if time.monotonic() > deadline:
                raise NotDone(f"attempt {attempt} does not run: {self.log.read_text()[-3000:]}")
            time.sleep(0.02)
        return int(self.run.read_status()["step"])


def harm(
    cluster: Cluster, out: Path, count: int, seed: int, kinds: Sequence[str] = KINDS
) -> tuple[list[Cost], list[str]]:
    """Runs two nodes with this number of faults; returns the cost of each, and what does not hold."""
    chance = random.Random(seed)
    kinds = [kinds[i % len(kinds)] for i in range(count)]
    chance.shuffle(kinds)
    write_sums(out)
    steps = FIRST + count * GAP + 20
    settings = ["model=gpt2", "model.tiny=true", "data.eval=0.2", f"data.train={out / 'rows.jsonl'}", "strategy=fsdp"]
    settings += ["train.epochs=null", f"train.max_steps={steps}", "train.global_batch_size=8"]
    settings += ["train.micro_batch_size=2", f"checkpoint.every_steps={EVERY}", "export=false"]
    settings += [f"runs_dir={out / 'runs'}", f"cache_dir={out / 'cache'}"]
    launch = [sys.executable, "-m", "distft.launch", *settings]
    straight = [*launch, "name=straight", "launcher.processes_per_node=2"]
    subprocess.run(straight, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    command = [*launch, "name=harmed", "launcher=slurm", "launcher.nodes=2", "launcher.restarts=99"]
    command += [f"launcher.hang_seconds={HANG_SECONDS}", f"launcher.hang_seconds_outside={OUTSIDE_SECONDS}"]
    harmed = Harm(cluster, RunFolder(out / "runs" / "harmed"), command, out / "launch.log")
    wrong = []
    harmed.type()
    try:
        for number, kind in enumerate(kinds):
            harmed.harm(number, kind, chance)
        if code := harmed.end_of_launch():
            wrong.append(f"exit code {code}: {harmed.log.read_text()[-2000:]}")
        wrong += differences(RunFolder(out / "runs" / "straight"), harmed.run)
    except NotDone as error:
        wrong.append(str(error))
    time.sleep(1)
    wrong += [f"process {pid} is left" for pid in sorted(processes_of(harmed.run))]
    lost = [cost for cost in harmed.found if (cost.lost_steps or 0) > (0 if cost.kind in NO_LOSS else EVERY)]
    wrong += [f"{cost.kind} cost {cost.lost_steps} steps" for cost in lost]
    if harmed.typed - 1 != sum(kind in TYPED for kind in kinds[: len(harmed.found)]):
        wrong.append(f"the command was typed {harmed.typed} times")
    return harmed.found, wrong


def main(arguments: list[str]) -> int:
    """Returns 0 if the run ended by itself, like one without faults."""
    given = dict(argument.split("=", 1) for argument in arguments)
    out = Path(given.get("out") or tempfile.mkdtemp(prefix="chaos-")).absolute()
    out.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(out / "slurm")
    cluster.start()
    try:
        kinds = given["kinds"].split(",") if "kinds" in given else KINDS
        found, wrong = harm(cluster, out, int(given.get("faults", "10")), int(given.get("seed", "0")), kinds)
    finally:
        cluster.stop()
    write(out / "chaos", found, {"seed": int(given.get("seed", "0")), "wrong": wrong})
    print(table(found))
    print("\n".join(wrong) or f"all of it holds: {out}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
