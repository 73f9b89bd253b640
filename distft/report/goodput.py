"""Goodput in words, for a terminal and for the report."""

from collections.abc import Mapping
from typing import Any

from distft.trackers.terminal import duration


def words(goodput: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns lines of name and text, from what goodput.json says: parts by size, and how often to save."""
    whole, failures = goodput["wall_seconds"], goodput["failures"]
    about = {"lost": f", {goodput['lost_steps']} steps", "checkpoint": f", {goodput['saves']} saves"}
    text = f"{goodput['goodput']:.1%} of {_length(whole)}, {failures} failure{'s' * (failures != 1)}"
    lines = [("goodput", text)]
    for part, seconds in sorted(goodput["seconds"].items(), key=lambda each: -each[1]):
        if part != "productive" and seconds >= 0.001 * whole:
            lines.append((f"time: {part}", f"{seconds / whole:.1%}, {_length(seconds)}{about.get(part, '')}"))
    if every := goodput["best_every_steps"]:
        cost, between = goodput["checkpoint_seconds"], goodput["seconds_between_failures"]
        rule = f"by Young and Daly: {cost:.2g} s a save, a failure every {_length(between)}"
        lines.append(("best checkpoint.every_steps", f"{every}, {rule}"))
    return lines


def _length(seconds: float) -> str:
    return duration(seconds) if seconds >= 60 else f"{seconds:.1f} s"
