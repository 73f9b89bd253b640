"""Forks elastic processes with their imports done: `python -m distft.launchers.fork_server`.

It imports the modules of the ranks once and forks an elastic process for each attempt, which forks its ranks. So a
restart, and each run of a sweep, starts at once. It has one thread, opens no files, and dies with its parent, which
sends requests through a socket on its stdin (see forks.py).
Python's own fork server passes every child the descriptor that keeps it alive, so after a killed launch all of its
children would keep running.
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
    """Forks an elastic process for each request and reports its exit code."""
    children: dict[int, tuple[BaseProcess, int]] = {}  # by sentinel, with the descriptor its parent reads
    while True:
        for ready in wait([control, *children]):
            if isinstance(ready, int):
                child, answer = children.pop(ready)
                child.join()
                send(answer, code=child.exitcode)
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
    """Forks an elastic process with these arguments, after importing the modules of its ranks."""
    with uncollected():
        from distft.launchers import elastic
        from distft.launchers.elastic import prepare

        given = elastic.read_arguments(arguments)
        prepare(given.program, RunFolder(given.run))
    return fork("elastic", become, arguments, answer, log, control)


def become(arguments: Sequence[str], answer: int, log: int, control: socket.socket) -> None:
    """Runs in this process as `python -m distft.launchers.elastic` would."""
    from distft.launchers import elastic

    control.close()
    if not send(answer, pid=os.getpid()):
        return
    os.dup2(answer, 1)
    os.dup2(log, 2)
    os.close(answer)
    os.close(log)
    sys.exit(elastic.main(arguments))


def send(answer: int, **what: int | None) -> bool:
    """Sends a line to the parent; returns whether it still reads."""
    try:
        os.write(answer, json.dumps(what).encode() + b"\n")
    except BrokenPipeError:
        return False
    return True


if __name__ == "__main__":
    main()
