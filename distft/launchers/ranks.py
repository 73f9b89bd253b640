"""How a rank is started: forked from this process, or as a Python of its own.

Where there is no accelerator ranks are forked, from a process that has imported what they need: torch, transformers and
a strategy are seconds of a core for each rank otherwise. A driver of a device does not survive a fork, so there each
rank is a Python of its own.
"""

import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Protocol

import torch

from distft.run import RunFolder
from distft.runtime.fork import fork
from distft.runtime.logs import redirect
from distft.runtime.quiet import silence


class Rank(Protocol):
    """A process, with the verbs of multiprocessing.Process."""

    @property
    def pid(self) -> int | None: ...
    @property
    def exitcode(self) -> int | None: ...
    def join(self, timeout: float | None = None) -> None: ...


@cache
def can_fork() -> bool:
    """Tells whether ranks of this machine may be forked from a process that has loaded torch.

    Trap: a process whose parent has asked a driver for its devices may be told that there are none; a child keeps what
    its parent was told.
    """
    return sys.platform == "linux" and torch.accelerator.device_count() == 0


def prepare(program: str, run: RunFolder) -> None:
    """Imports what the ranks of a run will import, where they are forked from this process.

    program: a module with `main()`, and `prepare(config)` if it has much to import. What fails here is left for the
    ranks to meet, who have a log for it.
    """
    if not can_fork():
        return
    silence()
    os.environ["HF_HUB_OFFLINE"] = "1"  # read by its library as it is imported; ranks set it all the same
    with suppress(Exception):
        module = importlib.import_module(program)
        if hasattr(module, "prepare"):
            module.prepare(run.read_config())


def start_rank(program: str, arguments: Sequence[str], environment: dict[str, str], log: Path) -> Rank:
    """Starts a rank whose output goes to `log` from the first byte on, so that a failing import is seen there too."""
    log.write_text("")
    if can_fork():
        return fork(f"rank {environment['RANK']}", become, program, arguments, environment, log)
    with log.open("a") as file:
        command = [sys.executable, "-m", program, *arguments]
        return OwnPython(
            subprocess.Popen(
                command, env=os.environ | environment, stdout=file, stderr=file, start_new_session=True, text=True
            )
        )


def become(program: str, arguments: Sequence[str], environment: dict[str, str], log: Path) -> None:
    """Goes on as `python -m program` would with its imports done."""
    redirect(log)
    os.environ.update(environment)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"].partition(",")[0]))  # was read when torch was loaded
    sys.argv = [program, *arguments]
    importlib.import_module(program).main()


class OwnPython:
    """A rank with an interpreter of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()

    def join(self, timeout: float | None = None) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
