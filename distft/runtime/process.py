"""Processes: start, fork, exit, and death with the parent.

Trap: the kernel sends the death signal when the starting *thread* exits, so start such processes from the main thread.

Trap: a fork inherits signal handlers and exit handlers of the parent, which the child must not run: removing a
temporary folder would break the parent.
Trap: only the forking thread exists in the child, so fork before libraries start threads, and from the main
thread.
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
    """Makes the kernel SIGKILL this process when process `parent` exits, at once if it already has."""
    if _libc is not None and _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def start_bound(
    command: Sequence[str], ignoring: Sequence[signal.Signals] = (), **options: Any
) -> subprocess.Popen[str]:
    """Starts `command` as a process that dies with the calling process.

    ignoring: signals that it and its children ignore from the start.
    """
    parent = os.getpid()

    def begin() -> None:
        die_with_parent(parent)
        for number in ignoring:
            signal.signal(number, signal.SIG_IGN)

    return subprocess.Popen(list(command), preexec_fn=begin, text=True, **options)


@contextmanager
def exits_on(*numbers: signal.Signals) -> Iterator[None]:
    """Makes each of these signals raise SystemExit(128 + its number) meanwhile, so that `finally` blocks run."""
    before = {number: signal.signal(number, lambda caught, _: sys.exit(128 + caught)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_PR_SET_NAME = 15


def fork(name: str, work: Callable[..., Any], *given: Any) -> BaseProcess:
    """Starts `work(*given)` in a child that dies with this process; its exit code is 0, or that of SystemExit.

    name: see show_as.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # until the child has its handlers
    try:
        child = get_context("fork").Process(target=_begin, args=(os.getpid(), before, name, work, given), name=name)
        child.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return child


def _begin(parent: int, mask: set[signal.Signals], name: str, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    die_with_parent(parent)
    os.setsid()  # so that its children can be killed with it
    forget_exit_functions()
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    show_as(name)
    work(*given)


def show_as(name: str) -> None:
    """Names this process for top and `ps -o comm`, which show 15 characters."""
    with suppress(AttributeError):  # no prctl here
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def leave() -> NoReturn:
    """Exits with code 0 after joining threads and running exit handlers, but skips the interpreter's teardown.

    Trap: gloo's threads outlive destroy_process_group, and one that frees a tensor during the interpreter's teardown
    aborts the process (https://github.com/pytorch/pytorch/issues/190489). Skipping it is safe: every file of a run is
    closed and synced by its writer.
    """
    end_threads()
    run_exit_functions()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


@contextmanager
def uncollected() -> Iterator[None]:
    """Disables garbage collection inside the block, and freezes the objects that exist at its end.

    torch and transformers create a million permanent objects; scanning them repeatedly took 12% of a rank's import
    time. Forks also keep sharing pages that no collection writes to.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
