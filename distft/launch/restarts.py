"""A run that is started again after a rank has died or hung, from its last checkpoint, and the rule that ends it.

The rule is one for all launchers: a start that brings no new checkpoint will not bring one the fourth time either.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from distft.config import Config, ConfigError
from distft.launch.history import resumed
from distft.launchers.contract import Handle, Outcome
from distft.launchers.outcome import write_outcome
from distft.plan import make_plan
from distft.run import RunFolder, State, json_text
from distft.runtime import stop
from distft.runtime.errors import FINAL, Failure
from distft.runtime.logs import Patient

STARTS = 3  # without a new checkpoint, after which the run is not started again


class CannotStart(RuntimeError):
    """This job must not run the run, and so the run has failed; the message says why."""


@runtime_checkable
class Repeatable(Protocol):
    """A handle whose place is this machine."""

    def start_again(self) -> None:
        """Starts the attempt in status.json after the previous one has ended."""
        ...


class Restarting:
    """A handle on a run that is started again, at most `most` times."""

    def __init__(self, handle: Handle, run: RunFolder, config: Config, most: int) -> None:
        assert isinstance(handle, Repeatable)
        self.name, self.is_part = handle.name, handle.is_part
        self._handle, self._again = handle, handle
        self._run, self._config, self._most = run, config, most
        self._starts = [saved_step(run, config)]
        self._is_cancelled = False

    def state(self) -> State:
        return self._handle.state()

    def wait(self, seconds: float) -> Outcome | None:
        """Returns how the last start ended; None after one that is followed by another."""
        outcome = self._handle.wait(seconds)
        if outcome is None or outcome.state != "failed" or self._is_cancelled:
            return outcome
        if not may_restart(self._run, outcome):
            return outcome
        error = outcome.error or {}
        done = len(self._starts) - 1
        if done >= self._most:
            _say(f"{self._run.path.name}: launcher.restarts={self._most}, and so often it was started again")
            return outcome
        try:
            self._begin(error)
        except (CannotStart, ConfigError) as reason:
            outcome = Outcome(
                "failed", asdict(Failure.of_run(f"{reason} The last one ended so: {failure_line(error)}"))
            )
            write_outcome(self._run, outcome)
            return outcome
        step = f"step {self._starts[-1]}" if self._starts[-1] else "its beginning"
        _say(f"{self._run.path.name}: {failure_line(error)}. Restart {done + 1} of {self._most}, from {step}")
        return None

    def cancel(self) -> None:
        self._is_cancelled = True
        self._handle.cancel()

    def _begin(self, error: dict[str, Any]) -> None:
        """Counts the attempt up, plans from the last checkpoint, and starts; CannotStart when none of that helps."""
        run, attempt = self._run, self._run.read_status()["attempt"]
        self._starts = check_progress(run, self._config, attempt, self._starts, run.logs)
        note(run, attempt, error, self._starts[-1])
        run.write_plan(make_plan(self._config, resumed(run, self._config), run.read_plan()))
        stop.clear(run)
        run.write_status(state="pending", attempt=attempt + 1, exit_code=None, error=None)
        self._again.start_again()


def restarting(handle: Handle, run: RunFolder, config: Config) -> Handle:
    """Returns a handle that does what launcher.restarts asks; the same one where another place sees to that."""
    most = config.launcher.restarts
    return Restarting(handle, run, config, most) if most and isinstance(handle, Repeatable) else handle


def may_restart(run: RunFolder, outcome: Outcome) -> bool:
    """Returns whether the failure is one that a restart could mend, and nobody has asked the run to stop."""
    kind = (outcome.error or {}).get("type")
    return kind not in FINAL and stop.requested(run, run.read_status()["attempt"]) is None


def check_progress(run: RunFolder, config: Config, attempt: int, before: Sequence[int], log: Path) -> list[int]:
    """Returns the steps that all starts since the launch began from; CannotStart when the last ones brought nothing.

    attempt, before: the last that has begun, and the steps that it and those before it began from. log: of the place.
    """
    starts = [*before, saved_step(run, config)]
    if len(starts) > STARTS and len(set(starts[-STARTS - 1 :])) == 1:
        first = max(1, attempt - STARTS + 1)
        raise CannotStart(
            f"{STARTS} starts have brought no checkpoint after step {starts[-1]}, so it is not started again. See "
            f"{run.logs}/attempt-{first} to attempt-{attempt} and {log}: a step or a save takes longer than nodes "
            "last, or something ends every start. Try: a lower checkpoint.every_minutes or every_steps"
        )
    return starts


def saved_step(run: RunFolder, config: Config) -> int:
    """Returns the step that the next start begins from."""
    manifest = resumed(run, config)
    return manifest["step"] if manifest else 0


def note(run: RunFolder, attempt: int, error: dict[str, Any], step: int) -> None:
    """Adds a line to restarts.jsonl: which attempt ended, how, and where the next one begins."""
    line = {"time": time.time(), "attempt": attempt, "from_step": step, "error": error}
    with (run.path / "restarts.jsonl").open("a") as file:
        file.write(json_text(line) + "\n")


def failure_line(error: dict[str, Any]) -> str:
    """Returns a failure in a line."""
    who = "the run" if error.get("rank") is None else f"rank {error['rank']} on {error['host']}"
    first, *_ = str(error.get("message", "")).strip().splitlines() or [""]
    return f"{who}: {error.get('type')}: {first}"


def _say(text: str) -> None:
    print(text, file=Patient(sys.stderr))
