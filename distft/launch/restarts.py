"""Restarts of a run from its last checkpoint after a rank has died or hung, and the rule that ends them.

The rule is the same for all launchers: after STARTS starts without a new checkpoint, the run has failed.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distft.config import Config, ConfigError
from distft.launch.history import resumed
from distft.launch.shrinking import Shrinking
from distft.launchers.contract import Handle, Outcome, Repeatable
from distft.launchers.outcome import write_outcome
from distft.plan import make_plan
from distft.plan.make import is_auto
from distft.run import RunFolder, State, json_text
from distft.runtime import stop
from distft.runtime.errors import FINAL, Failure
from distft.runtime.logs import Patient

STARTS = 3  # without a new checkpoint; then the run is not restarted


class CannotStart(RuntimeError):
    """The run cannot start in this job and has failed; the message gives the reason."""


class Restarting:
    """A handle that restarts its run at most `most` times."""

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
        """Returns the outcome of the last start; None after a restart."""
        outcome = self._handle.wait(seconds)
        if outcome is None or outcome.state != "failed" or self._is_cancelled:
            return outcome
        if not may_restart(self._run, outcome):
            return outcome
        error = outcome.error or {}
        done = len(self._starts) - 1
        if done >= self._most:
            _say(f"{self._run.path.name}: launcher.restarts={self._most}, and the limit is reached")
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

    def _begin(self, error: Mapping[str, Any]) -> None:
        """Begins a new attempt from the last checkpoint; CannotStart when restarts make no progress."""
        run, attempt = self._run, self._run.read_status()["attempt"]
        self._starts = check_progress(run, self._config, attempt, self._starts, run.logs)
        note(run, attempt, error, self._starts[-1])
        run.write_plan(make_plan(self._config, resumed(run, self._config), run.read_plan()))
        stop.clear(run)
        run.write_status(state="pending", attempt=attempt + 1, exit_code=None, error=None)
        self._again.start_again()


def restarting(handle: Handle, run: RunFolder, config: Config) -> Handle:
    """Returns a handle that does what launcher.restarts and a micro-batch of `auto` ask; the same one where another
    place sees to that."""
    most = config.launcher.restarts
    if is_auto(config) and isinstance(handle, Repeatable):
        handle = Shrinking(handle, run, config.data.max_length)
    return Restarting(handle, run, config, most) if most and isinstance(handle, Repeatable) else handle


def may_restart(run: RunFolder, outcome: Outcome) -> bool:
    """Returns whether a restart could fix the failure and no stop was requested."""
    kind = (outcome.error or {}).get("type")
    return kind not in FINAL and stop.requested(run, run.read_status()["attempt"]) is None


def check_progress(run: RunFolder, config: Config, attempt: int, before: Sequence[int], log: Path) -> list[int]:
    """Returns the first step of every start since the launch; CannotStart when the last ones made no progress.

    attempt: the last one. before: the first steps of the earlier starts and of this one. log: of the launcher.
    """
    starts = [*before, saved_step(run, config)]
    if len(starts) > STARTS and len(set(starts[-STARTS - 1 :])) == 1:
        first = max(1, attempt - STARTS + 1)
        raise CannotStart(
            f"{STARTS} starts made no checkpoint after step {starts[-1]}, so the run is not restarted. See "
            f"{run.logs}/attempt-{first} to attempt-{attempt} and {log}: a step or a save takes longer than nodes "
            "last, or something ends every start. Try: a lower checkpoint.every_minutes or every_steps"
        )
    return starts


def saved_step(run: RunFolder, config: Config) -> int:
    """Returns the first step of the next start."""
    manifest = resumed(run, config)
    return manifest["step"] if manifest else 0


def note(run: RunFolder, attempt: int, error: Mapping[str, Any], step: int) -> None:
    """Appends a line to restarts.jsonl: the attempt that ended, its error, and the step of the next start."""
    line = {"time": time.time(), "attempt": attempt, "from_step": step, "error": error}
    with (run.path / "restarts.jsonl").open("a") as file:
        file.write(json_text(line) + "\n")


def failure_line(error: Mapping[str, Any]) -> str:
    """Returns a failure as one line."""
    who = "the run" if error.get("rank") is None else f"rank {error['rank']} on {error['host']}"
    first, *_ = str(error.get("message", "")).strip().splitlines() or [""]
    return f"{who}: {error.get('type')}: {first}"


def _say(text: str) -> None:
    print(text, file=Patient(sys.stderr))
