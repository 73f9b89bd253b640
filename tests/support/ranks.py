"""Runs a module on several real gloo processes and returns what rank 0 wrote."""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.warm import HIDDEN, python

GRACE = 10.0  # seconds for the other ranks after one has failed


def run_ranks(
    world: int, module: str, *arguments: str, local_size: int | None = None, seconds: float = 580, **variables: str
) -> Any:
    """Runs `python -m module OUT ARGUMENTS` on `world` processes; returns the JSON that rank 0 wrote to OUT.

    variables: of the environment; with them each process is a new Python, because libraries read some at import;
    but not for those that hide devices where there are none.
    """
    program = sys.executable if variables.keys() - set(HIDDEN) else python()
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
            with (Path(folder) / f"{rank}.log").open("w") as log:
                command = [program, "-m", module, str(out), *arguments]
                processes.append(
                    subprocess.Popen(command, env=environment | variables, stdout=log, stderr=subprocess.STDOUT)
                )
        try:
            codes = wait(processes, seconds)
        finally:
            for process in processes:
                process.kill()
        logs = [(Path(folder) / f"{rank}.log").read_text() for rank in range(world)]
        failed = [
            f"rank {rank} ended with {codes[rank]}:\n{logs[rank][-3000:]}" for rank in range(world) if codes[rank] != 0
        ]
        assert not failed, "\n".join(failed)
        return json.loads(out.read_text())


def wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> list[int | None]:
    """Returns the exit codes; None of a process that others wait for, or that waits for a failed one, for too long."""
    ends = time.monotonic() + seconds
    while None in [process.poll() for process in processes] and time.monotonic() < ends:
        if any(process.returncode for process in processes):
            ends = min(ends, time.monotonic() + GRACE)
        time.sleep(0.02)
    return [process.poll() for process in processes]


def free_port() -> int:
    """Returns a port below those that the kernel gives to connections: such a one may be in use a moment later."""
    while True:
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", 20_000 + secrets.randbelow(12_000)))
            return free.getsockname()[1]
