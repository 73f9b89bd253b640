"""Launches tiny runs on the practice cluster, and waits for their results."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from practice_cluster import Cluster

from distft.run import RunFolder
from tests.support.warm import python

SECONDS = 240.0


def launch(cluster: Cluster, folder: Path, name: str, *overrides: str, **variables: str) -> subprocess.Popen[str]:
    """Starts `distft.launch launcher=slurm` on a tiny model, in a terminal of its own; its jobs start anew."""
    settings = ["model=gpt2", "model.tiny=true", "data.eval=0.2", f"data.train={folder / 'rows.jsonl'}"]
    settings += ["train.epochs=null", "train.max_steps=4", "train.global_batch_size=8", "train.micro_batch_size=2"]
    settings += ["launcher=slurm", f"name={name}", f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    settings += ["export=false"]
    return subprocess.Popen(
        [python(), "-m", "distft.launch", *settings, *overrides],
        env=os.environ | cluster.environment | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str], seconds: float = SECONDS) -> tuple[int, str]:
    """Returns exit code and all that was printed."""
    said, stderr = process.communicate(timeout=seconds)
    return process.returncode, said + stderr


def run_of(folder: Path, name: str) -> RunFolder:
    return RunFolder(folder / "runs" / name)


def wait(until: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, f"not in {seconds:.0f} s: {what}"
        time.sleep(0.1)


def last_step(run: RunFolder) -> int:
    return max((row["step"] for row in run.read_metrics("train")), default=0)


def wait_for_steps(run: RunFolder, attempt: int, more: int = 2) -> None:
    """Returns when attempt `attempt` has made `more` steps."""
    status = run.read_status
    wait(lambda: status()["attempt"] == attempt and status()["state"] == "running", f"{run.path}: attempt {attempt}")
    first = last_step(run)
    wait(lambda: last_step(run) >= first + more, f"{run.path}: steps of attempt {attempt}")


def losses(run: RunFolder) -> list[tuple[int, float, float]]:
    """Returns step, loss and gradient norm of every row, in the order of the file."""
    return [(row["step"], row["loss"], row["grad_norm"]) for row in run.read_metrics("train")]


def why(run: RunFolder) -> str:
    """Returns what a failed job has left, for a test's message."""
    logs = [*sorted(run.logs.rglob("*.log")), run.logs / "slurm.out"]
    return "\n".join(f"{log}:\n{log.read_text()[-2000:]}" for log in logs if log.is_file())
