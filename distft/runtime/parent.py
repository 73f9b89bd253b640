"""Processes that die with the process which started them, even when it is killed by SIGKILL.

Trap: the kernel sends the signal when the starting *thread* ends, so start such processes from the main thread.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(parent: int) -> None:
    """Asks the kernel to SIGKILL this process as soon as process `parent` is gone, at once if it already is."""
    if _libc is not None and _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def start_bound(
    command: Sequence[str], ignoring: Sequence[signal.Signals] = (), **options: Any
) -> subprocess.Popen[str]:
    """Starts `command`; it cannot outlive the calling process, whatever either of them runs.

    ignoring: signals that it and all that it starts do not heed, from its first moment on.
    """
    parent = os.getpid()

    def begin() -> None:
        die_with_parent(parent)
        for number in ignoring:
            signal.signal(number, signal.SIG_IGN)

    return subprocess.Popen(list(command), preexec_fn=begin, text=True, **options)
