"""How a process starts, forks, exits, and dies with its parent.

Trap: the kernel sends the signal when the starting *thread* ends, so start such processes from the main thread.

Trap: a fork inherits more than modules. What the parent does on signals and at its end is not the child's to do: the
cleaning up of a temporary folder would take it from under the parent.
Trap: only the forking thread goes on in the child, so fork before libraries have started threads. The main thread
must fork, see runtime/parent.py.
"""

import ctypes
import gc
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

from distft.compat.interpreter import end_threads, forget_exit_functions, run_exit_functions

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


_PR_SET_NAME = 15


def fork(name: str, work: Callable[..., Any], *given: Any) -> BaseProcess:
    """Starts `work(*given)` in a child that dies with this process; its exit code is 0, or that of SystemExit.

    name: see show_as.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # until the child has its own handlers
    try:
        child = get_context("fork").Process(target=_begin, args=(os.getpid(), before, name, work, given), name=name)
        child.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return child


def _begin(parent: int, mask: set[signal.Signals], name: str, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    die_with_parent(parent)
    os.setsid()  # so that whatever it starts can be ended with it
    forget_exit_functions()
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    show_as(name)
    work(*given)


def show_as(name: str) -> None:
    """Names this process for top and `ps -o comm`, which show 15 characters."""
    with suppress(AttributeError):  # where there is none
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def leave() -> NoReturn:
    """Ends this process with code 0, after its threads and what was registered for its end, and nothing after that.

    Trap: gloo's threads outlive destroy_process_group, and one that still lets go of a tensor while the interpreter is
    taken down aborts the process (https://github.com/pytorch/pytorch/issues/190489). Nothing is to be taken down here:
    every file of a run is closed and synced by whoever wrote it.
    """
    end_threads()
    run_exit_functions()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


@contextmanager
def uncollected() -> Iterator[None]:
    """Collects nothing inside; what is there at the end is never looked through again.

    torch and transformers make a million objects that stay; looking through them again and again took 12% of the
    imports of a rank. Forks also keep sharing the pages of what no collection writes to.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
