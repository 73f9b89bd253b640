"""The first failure of an attempt: every rank records its exception, and the launcher picks the culprit.

Trap: when one rank dies, the others fail with connection errors that hide the cause.
"""

import os
import re
import signal
import socket
import sys
import sysconfig
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from distft.run import RunFolder, read_json, write_json
from distft.runtime.environment import redact
from distft.runtime.logs import last_lines

HANG = "Hang"  # type of a failure without an exception: no progress
FINAL = {"NonFinite", "OutOfMemory", "Disagreement"}  # types that a restart would only repeat
_COLLECTIVE_ERRORS = {"RuntimeError", "DistError", "DistBackendError", "DistNetworkError", "DistStoreError"}
_PEER_LOST = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|(read|write|socket) (error|timeout)|recvValue failed"
    r"|timed out (waiting|after)|wait timeout|communicator was aborted|remote (process|error)|TCPStore",
    re.IGNORECASE,
)


class NonFinite(RuntimeError):
    """A loss, gradient or weight is NaN or Inf and the run must stop; no weight was updated with it."""


class Disagreement(RuntimeError):
    """The model under the strategy does not compute the same as its reference class; nothing was trained."""


@dataclass(frozen=True)
class Failure:
    """The failure of one rank, as status.json and the terminal show it."""

    rank: int | None  # None: the process that starts the ranks
    host: str
    type: str
    message: str
    where: str | None = None  # file:line of the deepest frame outside the installed packages
    log: str | None = None
    time: float = 0.0
    traceback: str = ""

    @classmethod
    def of_run(cls, message: str, log: Path | None = None) -> "Failure":
        """Returns a failure that is not caused by a single rank."""
        return cls(None, socket.gethostname(), "RuntimeError", message, log=str(log) if log else None, time=time.time())

    @property
    def peer_lost(self) -> bool:
        """Whether this rank only noticed that it lost a peer."""
        return self.type in _COLLECTIVE_ERRORS and bool(_PEER_LOST.search(self.message))


@contextmanager
def record(run: RunFolder, attempt: int, rank: int) -> Iterator[None]:
    """Exits with code 1 on any exception, after writing it to the rank's error.json and log.

    It exits at once: destroying a process group in which other ranks still wait can hang.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            raise
        failure = describe(error, run, attempt, rank)
        print(failure.traceback, file=sys.stderr, flush=True)
        try:
            write_json(run.rank_error(attempt, rank), asdict(failure))
        except OSError:  # a full disk; torch's error file is in the temporary folder
            write_json(Path(os.environ["TORCHELASTIC_ERROR_FILE"]), asdict(failure))
        finally:
            os._exit(1)


def describe(error: BaseException, run: RunFolder, attempt: int, rank: int | None) -> Failure:
    """Returns `error` as a Failure, with secrets redacted."""
    log = str(run.rank_log(attempt, rank)) if rank is not None else None
    text = "".join(traceback.format_exception(error))
    name = type(error).__name__
    return Failure(rank, socket.gethostname(), name, redact(str(error)), _where(error), log, time.time(), redact(text))


@dataclass(frozen=True)
class Exit:
    """The exit of a rank's process: its code, negative for a signal, and the time it was noticed."""

    code: int
    time: float


def first_failure(run: RunFolder, attempt: int, exits: Mapping[int, Exit], spare_dir: Path) -> Failure | None:
    """Returns the first failure of an attempt, None when no rank failed.

    The earliest exception that is not the loss of a peer wins, then a rank that exited without recording one.
    Ranks with SIGTERM come last: the elastic process sends it to all others after the first failure.
    `spare_dir` has errors that could not be written to the run folder.
    """
    named = [run.rank_error(attempt, rank) for rank in exits]  # a directory listing on a shared disk may lag
    listed = [*run.rank_error(attempt, 0).parent.glob("rank-*.error.json"), *spare_dir.glob("*.json")]
    files = {file for file in (*named, *listed) if file.is_file()}
    recorded = sorted((Failure(**read_json(file)) for file in files), key=lambda failure: failure.time)
    silent = {rank: end for rank, end in exits.items() if rank not in {failure.rank for failure in recorded}}
    order = sorted(silent, key=lambda rank: (silent[rank].time, silent[rank].code > 0))
    ended = {rank: of_process(silent[rank], run.rank_log(attempt, rank), rank) for rank in order}
    own = [failure for failure in recorded if not failure.peer_lost]
    first = [failure for rank, failure in ended.items() if silent[rank].code != -signal.SIGTERM]
    return next(iter([*own, *first, *recorded, *ended.values()]), None)


def of_process(end: Exit, log: Path, rank: int | None = None) -> Failure:
    """Returns the failure of a process from its exit code (negative: a signal) and log, without an exception."""
    if end.code < 0:
        name = signal.Signals(-end.code).name
        hint = " (by the kernel, if memory ran out, or by hand)" if name == "SIGKILL" else ""
        message = f"the process was ended by {name}{hint}"
        return Failure(rank, socket.gethostname(), name, message, log=str(log), time=end.time)
    said = "; ".join(last_lines(log, 1)) or "nothing"
    message = f"the process recorded no exception; its last output: {redact(said)}"
    return Failure(rank, socket.gethostname(), f"exit code {end.code}", message, log=str(log), time=end.time)


def _where(error: BaseException) -> str | None:
    installed = (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), "<")
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/distft/" in frame.filename or not frame.filename.startswith(installed)]
    chosen = (ours or frames)[-1:]
    return f"{chosen[0].filename}:{chosen[0].lineno}" if chosen else None
