"""The request to stop: a file in the run folder that rank 0 looks at between steps, or a signal to any rank.

The launcher uses the file, because torch's elastic agent neither forwards signals nor survives all of them; a
scheduler may signal the ranks themselves. Either way all of them agree at the next step border.
"""

import json
import signal
from collections.abc import Callable
from pathlib import Path

from distft.run import BY_YOU, RunFolder, write_json

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # of schedulers
_caught: list[str] = []  # of this process, as its signal handlers are


def request(run: RunFolder, attempt: int, reason: str) -> None:
    """Asks attempt `attempt` to save at the next step border and end as preempted; later attempts ignore it."""
    try:
        write_json(run.stop, {"attempt": attempt, "reason": reason})
    except OSError:  # a full disk often still takes an empty file
        run.stop.touch()


def requested(run: RunFolder, attempt: int) -> str | None:
    """Returns why attempt `attempt` is to stop, or None; an empty file (`touch RUN/stop`) counts for any attempt."""
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
    """Returns by whom or what attempt `attempt` was asked to stop, for status.json; None when it was not."""
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
    """Catches SIGTERM and SIGUSR1 from here on, so that they end nothing; the answer tells which came, or None.

    What an earlier call has caught counts too: a process listens from its first line on, long before it trains.
    """
    for number in SIGNALS:
        signal.signal(number, lambda number, _: _caught.append(signal.Signals(number).name))
    return lambda: _caught[0] if _caught else None


def forget() -> None:
    """Makes what was caught so far count no more."""
    _caught.clear()
