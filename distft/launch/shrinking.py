"""Halves a micro-batch that was chosen by `auto` and did not fit, and starts the run again.

The OOM probe makes the largest micro-batch right after the first step, so this happens in the run's first minute.
"""

import sys
from dataclasses import replace

from distft.launchers.contract import Handle, Outcome, Repeatable
from distft.run import Plan, RunFolder, State
from distft.runtime import stop
from distft.runtime.logs import Patient

MOST = 6  # times


class Shrinking:
    """A handle of a run whose micro-batch is `auto`."""

    def __init__(self, handle: Handle, run: RunFolder, longest: int) -> None:
        """longest: tokens that a row may have; a micro-batch in tokens holds at least one row."""
        assert isinstance(handle, Repeatable)
        self.name, self.is_part = handle.name, handle.is_part
        self._handle, self._again = handle, handle
        self._run, self._longest, self._times = run, longest, 0
        self._is_cancelled = False

    def state(self) -> State:
        return self._handle.state()

    def wait(self, seconds: float) -> Outcome | None:
        """Returns the outcome; None after a restart with a smaller micro-batch."""
        outcome = self._handle.wait(seconds)
        if outcome is None or (outcome.error or {}).get("type") != "OutOfMemory" or self._is_cancelled:
            return outcome
        plan, attempt = self._run.read_plan(), self._run.read_status()["attempt"]
        smaller = halved(plan, self._longest)
        if smaller is None or self._times >= MOST or stop.requested(self._run, attempt):
            return outcome
        self._times += 1
        self._run.write_plan(smaller)
        self._run.write_status(state="pending", attempt=attempt + 1, exit_code=None, error=None)
        print(
            f"{self._run.path.name}: {size_text(plan)} do not fit, now {size_text(smaller)}", file=Patient(sys.stderr)
        )
        self._again.start_again()
        return None

    def start_again(self) -> None:
        self._again.start_again()

    def cancel(self) -> None:
        self._is_cancelled = True
        self._handle.cancel()


def halved(plan: Plan, longest: int) -> Plan | None:
    """Returns the plan with half the micro-batch and twice the accumulation; None where it cannot be smaller.

    The update stays the same. longest: tokens of the longest row.
    """
    rows, tokens = plan.micro_batch_size, plan.micro_batch_tokens
    if rows and rows > 1:
        fewer = next(each for each in range(rows // 2, 0, -1) if rows % each == 0)
        return replace(plan, micro_batch_size=fewer, accumulation=plan.accumulation * (rows // fewer))
    if tokens and tokens > longest:
        return replace(plan, micro_batch_tokens=max(tokens // 2, longest), accumulation=2 * plan.accumulation)
    return None


def size_text(plan: Plan) -> str:
    """Returns the size of a forward in words."""
    rows = plan.micro_batch_size
    return f"{rows} row{'s' * (rows != 1)} per forward" if rows else f"{plan.micro_batch_tokens:,} tokens per forward"
