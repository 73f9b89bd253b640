"""A rank that misbehaves as $FAULT says: KIND:RANK:STEP:ATTEMPT, several with commas; the rest is the real rank.

At step 0 it does so before it has loaded anything; attempt 0 means each.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from distft import rank
from distft.rank import prepare  # noqa: F401  # as the real rank's


def misbehave(kind: str) -> None:
    """Does what a fault does to a process."""
    if kind == "sleep":
        time.sleep(3600)
    if kind == "lock":
        sum(iter(int, 1))  # an endless loop in C, which never gives the interpreter's lock away
    if kind in ("SIGSTOP", "SIGKILL", "SIGSEGV", "SIGABRT"):
        os.kill(os.getpid(), signal.Signals[kind])
    if kind == "fault":
        ctypes.string_at(0)
    if kind == "raise":
        raise ValueError("row 7 has no label")
    if kind == "secret":
        raise ValueError(Path(os.environ["SAYS"]).read_text())
    if kind == "exit":
        os._exit(3)


def faults() -> dict[int, str]:
    """Returns what this process does in this attempt, by step."""
    attempt = sys.argv[sys.argv.index("--attempt") + 1]
    each = (text.split(":") for text in os.environ.get("FAULT", "").split(",") if text)
    return {int(step): kind for kind, who, step, when in each if who == os.environ["RANK"] and when in (attempt, "0")}


def plant(planned: dict[int, str]) -> None:
    """Has the loop's own step fail between a forward and its backward."""
    from distft.runtime import heartbeat
    from distft.train import loop

    begin_step, train_step = heartbeat.begin_step, loop.train_step
    at = [0]

    def noted(step: int) -> None:
        at[0] = step
        begin_step(step)

    def faulty(engine: Any, *arguments: Any, **named: Any) -> Any:
        forward = engine.forward

        def watched(*given: Any) -> Any:
            outputs = forward(*given)
            misbehave(planned[at[0]])
            return outputs

        if at[0] in planned:
            engine.forward = watched
        return train_step(engine, *arguments, **named)

    heartbeat.begin_step, loop.train_step = noted, faulty


def main() -> None:
    planned = faults()
    misbehave(planned.get(0, ""))
    if planned:
        plant(planned)
    rank.main()


if __name__ == "__main__":
    main()
