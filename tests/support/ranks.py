"""Runs a module on several real gloo processes and gives back what its rank 0 wrote.

They are forked from one process that has imported torch, transformers and deepspeed, which takes four seconds.
"""

import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path
from typing import Any

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["tests.support.preload"])


def run_ranks(
    world: int, module: str, *arguments: str, local_size: int | None = None, seconds: float = 580, **variables: str
) -> Any:
    """Runs `python -m module OUT ARGUMENTS` on `world` processes; returns the JSON that rank 0 wrote to OUT.

    variables: of the environment; each process is then a Python of its own, since libraries read some as they load.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, port = Path(folder) / "out.json", free_port()
        processes = []
        for rank in range(world):
            environment = os.environ | {
                "RANK": str(rank),
                "WORLD_SIZE": str(world),
                "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(local_size or world),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
            }
            log, command = Path(folder) / f"{rank}.log", [module, str(out), *arguments]
            start = own_python if variables else forked
            processes.append(start(command, dict(environment | variables), log))
        try:
            codes = [process.wait(seconds) for process in processes]
        finally:
            for process in processes:
                process.kill()
        logs = [(Path(folder) / f"{rank}.log").read_text() for rank in range(world)]
        failed = [f"rank {rank} ended with {code}:\n{logs[rank][-3000:]}" for rank, code in enumerate(codes) if code]
        assert not failed, "\n".join(failed)
        return json.loads(out.read_text())


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def own_python(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, stdout=file, stderr=subprocess.STDOUT
        )


class Forked:
    """A forked process, with the verbs of Popen."""

    def __init__(self, process: Any) -> None:
        self.process = process

    def wait(self, seconds: float) -> int:
        self.process.join(seconds)
        if self.process.exitcode is None:
            raise TimeoutError(f"a rank has not ended after {seconds} s")
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()


def forked(command: list[str], environment: dict[str, str], log: Path) -> Forked:
    process = FORKS.Process(target=become, args=(command, environment, str(log)))
    process.start()
    return Forked(process)


def become(command: list[str], environment: dict[str, str], log: str) -> None:
    """Goes on as `python -m command` would, in a process that has its imports behind it."""
    import torch

    file = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # its library has read the variable long ago
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
