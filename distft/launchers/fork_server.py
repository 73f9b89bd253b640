"""Forks elastic processes with their imports done: the server, and the client that requests them and waits for them.

`python -m distft.launchers.fork_server` imports the modules of the ranks once and forks an elastic process for each
attempt, which forks its ranks. So a restart, and each run of a sweep, starts at once. It has one thread, opens no
files, and dies with its parent, which sends requests through a socket on its stdin.
Python's own fork server passes every child the descriptor that keeps it alive, so after a killed launch all of its
children would keep running.

Trap: schedulers signal every process of a job. TERM and USR1 are for the launching process and the ranks; an elastic
process that handled them would end the ranks before they have saved.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple, TypedDict

from distft.run import RunFolder
from distft.runtime import stop
from distft.runtime.logs import silence
from distft.runtime.process import fork, show_as, start_bound, uncollected

_LONGEST = 65536


class Ended(NamedTuple):
    """The exit of a process: its code, negative for a signal, and its output."""

    code: int
    said: str


class ForkServer:
    """The fork server of this process, started at the first request; it and its children die with this process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._socket: socket.socket | None = None

    def start(self, arguments: Sequence[str], log: Path) -> "Forked":
        """Returns an elastic process with these arguments that logs to `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            if self._process is None or self._process.poll() is not None:
                self._begin(file.fileno())
            assert self._socket is not None
            reads, writes = os.pipe()
            try:
                socket.send_fds(self._socket, [json.dumps(list(arguments)).encode()], [writes, file.fileno()])
            finally:
                os.close(writes)
        assert self._process is not None
        return Forked(reads, self._process, self)

    def _begin(self, log: int) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, its = socket.socketpair()
        with its:
            command = [sys.executable, "-m", "distft.launchers.fork_server"]
            self._process = start_bound(
                command, stop.SIGNALS, stdin=its, stdout=log, stderr=log, start_new_session=True
            )
        atexit.register(_end_server, self._process)


def _end_server(server: subprocess.Popen[str]) -> None:
    """Ends a server before this process exits; being bound to it, the server would end only after it."""
    server.kill()
    server.wait()


class Answer(TypedDict, total=False):
    """A line about an elastic process: its id, or its exit code; another line is its own, a failure."""

    pid: int
    code: int


class Forked:
    """An elastic process that was requested from the fork server."""

    def __init__(self, answers: int, server: subprocess.Popen[str], keeps: ForkServer) -> None:
        """answers: descriptor it and the server write to. server: the one that forked it; `keeps` may replace it."""
        self._answers, self._server, self._keeps = answers, server, keeps
        self._read = b""  # whole lines: its pid, its output, its exit code
        self._ended: Ended | None = None

    @property
    def pid(self) -> int | None:
        """The process id, None until it has started."""
        return next((line["pid"] for line in self._lines() if "pid" in line), None)

    def wait(self, seconds: float | None = None) -> Ended | None:
        """Returns its exit, None if it still runs after `seconds`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self._ended is None:
            left = None if deadline is None else max(0, deadline - time.monotonic())
            if not wait([self._answers], left):
                return None
            some = os.read(self._answers, 65536)
            self._read += some
            codes = [line["code"] for line in self._lines() if "code" in line]
            if codes or not some:  # no bytes: the server and this process have ended
                self._end(codes[0] if codes else self._server.wait())
        return self._ended

    def cancel(self, seconds: float) -> None:
        """Ends it with SIGINT, after `seconds` with SIGKILL; one that has not started never will."""
        if self.wait(0) is not None:
            return
        if self.pid is None:
            self._end(-signal.SIGINT)
            return
        for number, patience in ((signal.SIGINT, seconds), (signal.SIGKILL, None)):
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
            if self.wait(patience) is not None:
                return

    def _end(self, code: int) -> None:
        said = [json.dumps(line) for line in self._lines() if "pid" not in line and "code" not in line]
        self._ended = Ended(code, "\n".join(said))
        os.close(self._answers)

    def _lines(self) -> list[Answer]:
        return [json.loads(line) for line in self._read.splitlines(keepends=True) if line.endswith(b"\n")]


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
