"""Goodput and attempts in words, for a terminal, the page and the model card."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from distft.goodput.timeline import Attempt
from distft.trackers.terminal import duration

_SHOWN = 0.001  # of the time in which the run was wanted; smaller parts are summed


def words(goodput: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns lines of name and text, from what goodput.json says: parts by size, and how often to save.

    The parts and the goodput make 100% of the time in which the run was wanted; idle time, between an end and the next
    launch, is none of it.
    """
    idle, failures = goodput["seconds"]["idle"], goodput["failures"]
    whole = goodput["wall_seconds"] - idle
    about = {"lost": f", {goodput['lost_steps']} steps", "checkpoint": f", {goodput['saves']} saves"}
    text = f"{goodput['goodput']:.1%} of {_length(whole)}, {failures} failure{'s' * (failures != 1)}"
    lines = [("goodput", text)]
    parts = {part: seconds for part, seconds in goodput["seconds"].items() if part not in ("productive", "idle")}
    small = {part: seconds for part, seconds in parts.items() if seconds < _SHOWN * whole}
    for part, seconds in sorted(parts.items(), key=lambda each: -each[1]):
        if part not in small:
            lines.append((f"time: {part}", f"{seconds / whole:.1%}, {_length(seconds)}{about.get(part, '')}"))
    if (rest := sum(small.values())) >= _SHOWN * whole > 0:
        lines.append(("time: other", f"{rest / whole:.1%}, {_length(rest)}"))
    if idle >= 1:
        lines.append(("without an attempt", f"{_length(idle)}, not counted above"))
    if every := goodput["best_every_steps"]:
        cost, between = goodput["checkpoint_seconds"], goodput["seconds_between_failures"]
        rule = f"by Young and Daly: {cost:.2g} s a save, a failure every {_length(between)}"
        lines.append(("best checkpoint.every_steps", f"{every}, {rule}"))
    return lines


def of_attempt(attempt: Attempt) -> dict[str, str]:
    """Returns what an attempt was, by column: when, which steps, on how many processes, how it ended, what changed."""
    first, last = attempt.step, attempt.done
    steps = "" if first is None else f"{first} to {last}" if last is not None else f"from {first}"
    return {
        "attempt": str(attempt.number),
        "began": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.time)),
        "steps": steps,
        "processes": "" if attempt.world is None else str(attempt.world),
        "ended": (attempt.state or "").replace("_", " "),
        "changed": ", ".join(attempt.changed),
    }


def attempt_lines(attempts: Sequence[Attempt]) -> list[str]:
    """Returns a line for each attempt."""
    lines = []
    for each in map(of_attempt, attempts):
        said = [each["began"], f"steps {each['steps']}" * bool(each["steps"])]
        said += [f"{each['processes']} process{'es' * (each['processes'] != '1')}" * bool(each["processes"])]
        said += [each["ended"], f"changed: {each['changed']}" * bool(each["changed"])]
        lines.append(f"{each['attempt']}: {', '.join(filter(None, said))}")
    return lines


def _length(seconds: float) -> str:
    return duration(seconds) if seconds >= 60 else f"{seconds:.1f} s"
