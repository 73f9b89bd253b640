"""The outcome of an attempt, from the exit code and output of its elastic process, written to status.json."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distft.goodput import note, write_goodput
from distft.launchers.contract import Outcome
from distft.run import FINISHED, RunFolder, State
from distft.runtime import stop
from distft.runtime.errors import Exit, Failure, of_process
from distft.runtime.logs import Patient


def outcome_of(run: RunFolder, code: int, said: str, log: Path) -> Outcome:
    """Returns the outcome of an elastic process from its exit code, its stdout `said` and its `log`."""
    if said.strip():
        return Outcome("failed", json.loads(said))
    if code:
        return Outcome("failed", asdict(of_process(Exit(code, time.time()), log)))
    state = run.read_status()["state"]
    if state in FINISHED or state == "preempted":
        return Outcome(state)
    message = f"every rank ended without an error, but status.json says {state!r}"
    return Outcome("failed", asdict(Failure.of_run(message, log)))


def note_end(run: RunFolder, state: State, error: Mapping[str, Any] | None = None) -> None:
    """Records when an attempt ended and how its time was spent; only the first record of an end is used."""
    note(run, "ended", run.read_status()["attempt"], state=state, failed=(error or {}).get("time"))
    write_goodput(run)


def write_outcome(run: RunFolder, outcome: Outcome) -> None:
    """Writes the outcome to status.json, with the reason of a stop; a full disk is only reported."""
    note_end(run, outcome.state, outcome.error)
    reason = stop.reason_of(run, run.read_status()["attempt"]) if outcome.state == "preempted" else None
    try:
        run.write_status(state=outcome.state, exit_code=outcome.exit_code, error=outcome.error, reason=reason)
    except OSError as full:  # the error that ended the run must still reach the user
        print(f"{run.status}: not written: {full}", file=Patient(sys.stderr))


def elastic_log(run: RunFolder, attempt: int, node: int = 0) -> Path:
    """Returns the log of a node's elastic process."""
    return run.rank_log(attempt, 0).with_name(f"elastic-{node}.log" if node else "elastic.log")
