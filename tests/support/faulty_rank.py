"""The real rank with injected faults. $FAULT: KIND:RANK:STEP:ATTEMPT, several separated by commas.

A fault of step 0 occurs before anything is loaded; attempt 0 means every attempt.
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
    """Injects a fault into this process."""
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
    """Returns the faults of this process in this attempt, by step."""
    attempt = sys.argv[sys.argv.index("--attempt") + 1]
    each = (text.split(":") for text in os.environ.get("FAULT", "").split(",") if text)
    return {int(step): kind for kind, who, step, when in each if who == os.environ["RANK"] and when in (attempt, "0")}


def plant(planned: dict[int, str]) -> None:
    """Makes the step of the loop fail between a forward and its backward."""
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
