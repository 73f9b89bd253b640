"""The client of the fork server: requests elastic processes and waits for them.

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
from pathlib import Path
from typing import Any, NamedTuple

from distft.runtime import stop
from distft.runtime.process import start_bound


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
        atexit.register(_end, self._process)


def _end(server: subprocess.Popen[str]) -> None:
    """Ends a server before this process exits; being bound to it, the server would end only after it."""
    server.kill()
    server.wait()


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

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._read.splitlines(keepends=True) if line.endswith(b"\n")]
