"""Python's shutdown steps, for processes that exit without them or must not run them."""

import atexit
import threading

from distft.compat.reach import Reach

REACHES = (
    Reach("threading._shutdown", "Python 3.11 to 3.13", "ends pools of threads and joins the others"),
    Reach("atexit._run_exitfuncs", "Python 3.11 to 3.13", "runs what is registered for the end of the process"),
    Reach("atexit._clear", "Python 3.11 to 3.13", "a forked child must not do what its parent does at its end"),
)


def end_threads() -> None:
    """Ends pools of threads and joins all other threads, the interpreter's first step when it ends."""
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]  # private


def run_exit_functions() -> None:
    """Runs the functions registered with atexit, the last registered first."""
    atexit._run_exitfuncs()


def forget_exit_functions() -> None:
    """Unregisters every function registered with atexit."""
    atexit._clear()
