"""Which rank failed first, and why: every rank records its exception, the launcher picks the culprit.

Trap: when one rank dies the others fail too, with errors about the lost connection that hide the cause.
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

HANG = "Hang"  # the type of a failure without an exception: a step made no progress
FINAL = {"NonFinite", "OutOfMemory", "Disagreement"}  # types which another start would only repeat
_COLLECTIVE_ERRORS = {"RuntimeError", "DistError", "DistBackendError", "DistNetworkError", "DistStoreError"}
_PEER_LOST = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|(read|write|socket) (error|timeout)|recvValue failed"
    r"|timed out (waiting|after)|wait timeout|communicator was aborted|remote (process|error)|TCPStore",
    re.IGNORECASE,
)


class NonFinite(RuntimeError):
    """A loss, gradient or weight is not finite, and the run must not go on; no weight was changed by it."""


class Disagreement(RuntimeError):
    """The live model does not compute what its own class means; nothing was trained."""


@dataclass(frozen=True)
class Failure:
    """One rank's end, as status.json and the user's screen show it."""

    rank: int | None  # None: not a rank but the process that starts them
    host: str
    type: str
    message: str
    where: str | None = None  # file:line of the deepest frame outside the installed packages
    log: str | None = None
    time: float = 0.0
    traceback: str = ""

    @classmethod
    def of_run(cls, message: str, log: Path | None = None) -> "Failure":
        """Returns a failure that no single rank is to blame for."""
        return cls(None, socket.gethostname(), "RuntimeError", message, log=str(log) if log else None, time=time.time())

    @property
    def peer_lost(self) -> bool:
        """True when this rank only noticed that another one was gone."""
        return self.type in _COLLECTIVE_ERRORS and bool(_PEER_LOST.search(self.message))


@contextmanager
def record(run: RunFolder, attempt: int, rank: int) -> Iterator[None]:
    """Ends the process with code 1 on any exception, after writing it to the rank's error.json and log.

    It ends at once: tearing down collectives that other ranks still wait in can hang.
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
        except OSError:  # a full disk: torch's own error file is in the temporary folder
            write_json(Path(os.environ["TORCHELASTIC_ERROR_FILE"]), asdict(failure))
        finally:
            os._exit(1)


def describe(error: BaseException, run: RunFolder, attempt: int, rank: int | None) -> Failure:
    """Returns what a user needs to know of `error`, secrets blanked."""
    log = str(run.rank_log(attempt, rank)) if rank is not None else None
    text = "".join(traceback.format_exception(error))
    name = type(error).__name__
    return Failure(rank, socket.gethostname(), name, redact(str(error)), _where(error), log, time.time(), redact(text))


@dataclass(frozen=True)
class Exit:
    """How a failed rank's process ended: its code, negative for a signal, and when that was noticed."""

    code: int
    time: float


def first_failure(run: RunFolder, attempt: int, exits: Mapping[int, Exit], spare_dir: Path) -> Failure | None:
    """Returns the culprit of an attempt, None when no rank failed.

    The earliest exception that is no mere loss of a peer wins, then a rank that ended without recording one.
    Ranks with SIGTERM come last: the elastic process ends all others that way as soon as one has failed.
    `spare_dir` holds errors that found no room in the run folder.
    """
    named = [run.rank_error(attempt, rank) for rank in exits]  # the listing of a shared disk may lag
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
    """Returns the failure of a process that left nothing but its exit code (negative: a signal) and its log."""
    if end.code < 0:
        name = signal.Signals(-end.code).name
        hint = " (by the kernel, if memory ran out, or by hand)" if name == "SIGKILL" else ""
        message = f"the process was ended by {name}{hint}"
        return Failure(rank, socket.gethostname(), name, message, log=str(log), time=end.time)
    said = "; ".join(last_lines(log, 1)) or "nothing"
    message = f"the process recorded no exception; the last it printed: {redact(said)}"
    return Failure(rank, socket.gethostname(), f"exit code {end.code}", message, log=str(log), time=end.time)


def _where(error: BaseException) -> str | None:
    installed = (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), "<")
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/distft/" in frame.filename or not frame.filename.startswith(installed)]
    chosen = (ours or frames)[-1:]
    return f"{chosen[0].filename}:{chosen[0].lineno}" if chosen else None
