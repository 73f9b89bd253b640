"""A measurement: lists on the command line, the identity of code and settings, and results as text."""

import hashlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from distft.runtime.environment import code_of

_CHECKOUT = Path(__file__).resolve().parents[1]
_MEASURED = ("distft", "conf", "benchmarks", "constraints.txt")


def listed(text: str) -> list[str]:
    """Returns the parts of `a,b` or `[a,b]`."""
    inside = text.strip().removeprefix("[").removesuffix("]")
    return [part.strip() for part in inside.split(",") if part.strip()]


def code() -> str:
    """Returns the commit, with a hash of uncommitted changes to the measured code; '' outside of git."""
    found = code_of()
    if found is None:
        return ""
    if not found["changed"]:
        return found["commit"]
    command = ["git", "-C", str(_CHECKOUT), "diff", "HEAD", "--", *_MEASURED, ":(exclude)benchmarks/results"]
    changes = subprocess.run(command, capture_output=True, check=False).stdout
    return f"{found['commit']}+{hashlib.sha256(changes).hexdigest()[:8]}" if changes else found["commit"]


def digest(settings: object) -> str:
    """Returns a hash of settings that JSON can hold: equal settings have equal hashes."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]


def spread(values: Sequence[float], form: str = "{:,.0f}") -> str:
    """Returns `median (minimum to maximum)`; a single value without its range, and a dash for none."""
    if not values:
        return "-"
    text = form.format(median(values))
    return text if len(values) == 1 else f"{text} ({form.format(min(values))} to {form.format(max(values))})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
