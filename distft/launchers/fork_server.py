"""Starts elastic processes that have their imports behind them: `python -m distft.launchers.fork_server`.

It imports what the ranks of a run need, once, and forks an elastic process for every attempt, which forks its ranks: a
restart, and each run of a sweep, begins at once. It has one thread, opens nothing, and dies with its parent, which
talks to it through a socket on its stdin (see forks.py).
Python's own fork server hands every child the descriptor that keeps it alive, so a killed launch would leave all of it
running.
"""

import json
import os
import socket
import sys
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from distft.run import RunFolder
from distft.runtime.logs import silence
from distft.runtime.process import fork, show_as, uncollected

_LONGEST = 65536


def main() -> None:
    """Serves until the parent closes the socket."""
    control = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    show_as("fork server")
    silence()
    serve(control)


def serve(control: socket.socket) -> None:
    """Forks an elastic process for each request, and tells the code with which it has ended."""
    children: dict[int, tuple[BaseProcess, int]] = {}  # by sentinel, with where its parent listens
    while True:
        for ready in wait([control, *children]):
            if isinstance(ready, int):
                child, answer = children.pop(ready)
                child.join()
                tell(answer, code=child.exitcode)
                os.close(answer)
                continue
            request, descriptors, *_ = socket.recv_fds(control, _LONGEST, 2)
            if not request:
                return
            answer, log = descriptors
            child = start(json.loads(request), answer, log, control)
            children[child.sentinel] = child, answer
            os.close(log)


def start(arguments: Sequence[str], answer: int, log: int, control: socket.socket) -> BaseProcess:
    """Forks the elastic process with these arguments, after the imports of its ranks."""
    with uncollected():
        from distft.launchers import elastic
        from distft.launchers.elastic import prepare

        given = elastic.read_arguments(arguments)
        prepare(given.program, RunFolder(given.run))
    return fork("elastic", become, arguments, answer, log, control)


def become(arguments: Sequence[str], answer: int, log: int, control: socket.socket) -> None:
    """Goes on as `python -m distft.launchers.elastic` would."""
    from distft.launchers import elastic

    control.close()
    if not tell(answer, pid=os.getpid()):
        return
    os.dup2(answer, 1)
    os.dup2(log, 2)
    os.close(answer)
    os.close(log)
    sys.exit(elastic.main(arguments))


def tell(answer: int, **what: int | None) -> bool:
    """Writes a line to who waits for an elastic process; returns whether anyone still does."""
    try:
        os.write(answer, json.dumps(what).encode() + b"\n")
    except BrokenPipeError:
        return False
    return True


if __name__ == "__main__":
    main()
