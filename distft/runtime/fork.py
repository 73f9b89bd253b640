"""Processes that begin where this one is, with its imports behind them, and else as a Python of their own would.

Trap: a fork inherits more than modules. What the parent does on signals and at its end is not the child's to do: the
cleaning up of a temporary folder would take it from under the parent.
Trap: only the forking thread goes on in the child, so fork before libraries have started threads. The main thread
must fork, see runtime/parent.py.
"""

import ctypes
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any

from distft.compat.interpreter import forget_exit_functions
from distft.runtime.parent import die_with_parent

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
