"""The place of a proof: its folders, the machine, the time left, and the processes that it has started."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from distft.runtime.environment import Commit
from distft.runtime.logs import last_lines
from distft.runtime.process import start_bound

SMALL, FULL = "small", "full"


class MachineFacts(TypedDict):
    """machine.json: device, cores and versions; nothing that identifies a person or host."""

    device: str  # cpu, cuda, xpu
    name: str  # of the device
    devices: int  # 0 on a CPU
    cores: int | None
    memory_gib: float
    platform: str
    python: str
    packages: dict[str, str]
    distft: str
    code: Commit | None  # None outside of a checkout
    time: str
    device_memory_gib: NotRequired[float]  # this and the following for CUDA and ROCm only
    capability: NotRequired[str]
    runtime: NotRequired[str | None]
    cudnn: NotRequired[int | None]
    nccl: NotRequired[str | None]
    bf16: NotRequired[bool]


@dataclass(frozen=True)
class Machine:
    """The facts of this machine that checks depend on."""

    device: str  # cpu, cuda, xpu
    name: str  # of the device
    devices: int  # 0 on a CPU
    cores: int
    facts: Mapping[str, Any] = field(default_factory=dict)  # MachineFacts; empty until the machine has been examined

    @property
    def has_accelerator(self) -> bool:
        return self.device != "cpu"

    @property
    def shapes(self) -> str:
        """The shapes that are measured: those of real models, or small ones on a CPU."""
        return FULL if self.has_accelerator else SMALL

    @property
    def world(self) -> int:
        """Processes of a run: one per accelerator; two on a CPU, so that state is sharded and communicated."""
        return self.devices or min(2, self.cores)


@dataclass
class Place:
    """Folders, machine and clock of a proof."""

    out: Path
    machine: Machine
    deadline: float  # of time.monotonic()
    children: list["Child"] = field(default_factory=list)

    @property
    def work(self) -> Path:
        """Runs, rows and logs."""
        return self.out / "work"

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def start(self, name: str, module: str, *arguments: str, variables: Mapping[str, str] | None = None) -> "Child":
        """Starts `python -m module`, with its output in the log `name`; it dies with this process."""
        log = self.work / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **self._variables(), **(variables or {})}
        with log.open("a") as file:
            process = start_bound(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches only this process, which ends its children
            )
        child = Child(name, process, log)
        self.children.append(child)
        return child

    def _variables(self) -> dict[str, str]:
        """Returns variables that turn the network off, and that divide the cores among the processes of a run."""
        package = str(Path(__file__).parents[2])
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        threads = {} if self.machine.has_accelerator else {"OMP_NUM_THREADS": str(self.threads)}
        return {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "PYTHONPATH": path, **threads}

    @property
    def threads(self) -> int:
        return max(1, self.machine.cores // self.machine.world)

    def end_children(self) -> None:
        for child in self.children:
            child.kill()


class Child:
    """A started program and its children."""

    def __init__(self, name: str, process: subprocess.Popen[str], log: Path) -> None:
        self.name, self.process, self.log = name, process, log

    def wait(self, seconds: float) -> int | None:
        """Returns the exit code; kills the program and returns None when it does not end within `seconds`."""
        try:
            return self.process.wait(max(0.1, seconds))
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def poll(self) -> int | None:
        return self.process.poll()

    def kill(self) -> None:
        """Kills the program with SIGKILL; its children are bound to it and die too."""
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def last_words(self, lines: int = 3) -> str:
        return " | ".join(line.strip() for line in last_lines(self.log, lines)) or "no output"


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Makes SIGTERM raise KeyboardInterrupt within the context, so that the clean-up runs."""

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
