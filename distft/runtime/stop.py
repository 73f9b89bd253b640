"""The request to stop: a file in the run folder that rank 0 looks at between steps.

A file and no signal, because torch's elastic agent neither forwards signals nor survives all of them.
"""

import json
from pathlib import Path

from distft.run import RunFolder, write_json


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


def clear(run: RunFolder) -> None:
    """Removes a request left over from an earlier attempt."""
    run.stop.unlink(missing_ok=True)
