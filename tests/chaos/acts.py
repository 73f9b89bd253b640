"""Performs each kind of fault inside the affected rank."""

import ctypes
import os
import random
import re
import signal
import time
from pathlib import Path

from distft.run import RunFolder

_SIGNALS = {"SIGKILL": 9, "SIGSEGV": signal.SIGSEGV, "SIGSTOP": signal.SIGSTOP, "SIGTERM": signal.SIGTERM}
_FREE_BYTES = 2**16  # on a full disk: for a line of metrics, and not for a checkpoint


def act(kind: str, run: RunFolder, seed: int) -> None:
    """Performs the fault; returns where this process continues afterwards."""
    if kind in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[kind])
    elif kind == "abort":
        os.abort()
    elif kind == "exception":
        raise ValueError("row 7 has no label")
    elif kind == "agent":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    elif kind == "fork server":
        os.kill(parent_of(os.getppid()), signal.SIGKILL)
        time.sleep(60)
    elif kind in ("launcher", "SIGTERM launcher"):
        launcher = parent_of(parent_of(os.getppid()))
        os.kill(launcher, signal.SIGKILL if kind == "launcher" else signal.SIGTERM)
    elif kind == "lock":
        sum(iter(int, 1))  # an endless loop in C, which never gives the interpreter's lock away
    elif kind == "regex":
        re.match(r"(a+)+$", "a" * 64 + "b")
    elif kind == "library":
        while True:
            ctypes.PyDLL(None).sleep(3600)  # the lock is kept
    elif kind == "sleep":
        time.sleep(3600)
    elif kind == "port":  # the driver takes it as soon as it is free
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "corrupt":
        damage(run.checkpoints / "latest", random.Random(seed))
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "disk":
        from tests.support.small_disk import fill

        fill(run.path.parent, _FREE_BYTES)


def damage(checkpoint: Path, chance: random.Random) -> None:
    """Spoils one file of a checkpoint: a bit, its end, or all of it."""
    file = chance.choice(sorted(checkpoint.resolve().glob("*.json")) + sorted(checkpoint.resolve().glob("rank-*")))
    how, content = chance.choice(("bit", "end", "gone")), bytearray(file.read_bytes())
    if how == "gone":
        file.unlink()
        return
    at = chance.randrange(len(content))
    content[at] ^= 1 << chance.randrange(8)
    file.write_bytes(content if how == "bit" else content[:at])


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
