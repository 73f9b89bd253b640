"""Requests to stop: a file in the run folder that rank 0 checks between steps, or a signal to any rank.

The launcher uses the file, since torch's elastic agent does not forward signals and some of them kill it; a
scheduler may signal the ranks themselves. Either way all ranks agree at the next step boundary.
"""

import json
import signal
from collections.abc import Callable
from pathlib import Path

from distft.run import BY_YOU, RunFolder, write_json

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # of schedulers
_caught: list[str] = []  # one per process, like signal handlers


def request(run: RunFolder, attempt: int, reason: str) -> None:
    """Requests that `attempt` saves at the next step boundary and ends as preempted; later attempts ignore it."""
    try:
        write_json(run.stop, {"attempt": attempt, "reason": reason})
    except OSError:  # on a full disk an empty file often still works
        run.stop.touch()


def requested(run: RunFolder, attempt: int) -> str | None:
    """Returns why `attempt` must stop, or None; an empty file (`touch RUN/stop`) applies to any attempt."""
    try:
        text = Path(run.stop).read_text()
    except FileNotFoundError:
        return None
    try:
        wanted = json.loads(text)
        return wanted["reason"] if wanted["attempt"] == attempt else None
    except (ValueError, TypeError, KeyError):
        return text.strip() or f"{run.stop} was made by hand"


def reason_of(run: RunFolder, attempt: int) -> str | None:
    """Returns who or what requested `attempt` to stop, for status.json; None without a request."""
    asked = requested(run, attempt)
    if asked is None:
        return None
    try:
        json.loads(run.stop.read_text())["reason"]
    except (OSError, ValueError, TypeError, KeyError):
        text = "" if str(run.stop) in asked else f": {asked}"
        return f"{BY_YOU} the file {run.stop.name}{text}"
    return asked


def clear(run: RunFolder) -> None:
    """Removes a request left over from an earlier attempt."""
    run.stop.unlink(missing_ok=True)


def listen() -> Callable[[], str | None]:
    """Catches SIGTERM and SIGUSR1 instead of exiting; the returned function gives the signal caught first, or None.

    Signals caught since an earlier call are included: a process listens from its first line on, long before it trains.
    """
    for number in SIGNALS:
        signal.signal(number, lambda number, _: _caught.append(signal.Signals(number).name))
    return lambda: _caught[0] if _caught else None


def forget() -> None:
    """Discards the signals caught so far."""
    _caught.clear()
