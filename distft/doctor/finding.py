"""Findings, and how checks run: a check that raises is itself a finding, and the others continue."""

import json
import os
import platform
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from distft.runtime.environment import redact
from distft.runtime.process import start_bound

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One observation in a line and, unless it is ok, a line with the remedy."""

    check: str
    state: State
    seen: str
    remedy: str = ""
    host: str | None = None  # None: the machine that runs the command

    def as_json(self) -> dict[str, str]:
        return asdict(self) | {"host": self.host or platform.node()}

    def on(self, host: str) -> "Finding":
        return replace(self, host=host)


class Refused(RuntimeError):
    """A service that a check needs does not answer; the message and `remedy` are for the user."""

    def __init__(self, seen: str, remedy: str) -> None:
        super().__init__(seen)
        self.remedy = remedy


Check = Callable[[], Iterable[Finding]]


def run_check(name: str, check: Check) -> list[Finding]:
    """Returns the findings of a check without secrets; an exception becomes a finding, never a traceback."""
    found = []
    try:
        for each in check():  # one by one: findings before an exception are kept
            found += [each]
    except Refused as refused:
        found.append(Finding(name, "problem", str(refused), refused.remedy))
    except Exception as error:  # any error that a broken machine may cause
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        seen, remedy = f"this check failed: {type(error).__name__}: {reason}", "the other checks ran; report this line"
        found.append(Finding(name, "problem", seen, remedy))
    return [replace(each, seen=redact(each.seen), remedy=redact(each.remedy)) for each in found]


_MARKS = {"ok": "ok", "warning": "warning", "problem": "PROBLEM"}


def show(findings: Sequence[Finding], console: Console) -> None:
    """Prints every finding once; findings that several nodes share are one line."""
    table = Table(box=None, show_header=False, pad_edge=False, expand=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for found, hosts in _merged([each for each in findings if each.state == "ok"]):
        table.add_row("ok", found.check, _on(hosts) + found.seen)
    console.print(table)
    for state in ("warning", "problem"):
        for found, hosts in _merged([each for each in findings if each.state == state]):
            console.print(f"\n{_MARKS[state]} {found.check}: {_on(hosts)}{found.seen}")
            console.print(f"  Try: {found.remedy}")
    counts = {state: sum(each.state == state for each in findings) for state in _MARKS}
    words = [f"{count} {state}{'s' * (state != 'ok' and count != 1)}" for state, count in counts.items()]
    console.print(f"\n{', '.join(words)}")


def _merged(findings: Sequence[Finding]) -> list[tuple[Finding, list[str]]]:
    """Groups equal findings with their nodes; findings with different numbers stay separate."""
    hosts: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    first: dict[tuple[str, str, str], Finding] = {}
    for each in findings:
        key = (each.check, each.seen, each.remedy) if each.host else (each.check, each.seen, f"{each.remedy}\0here")
        first.setdefault(key, each)
        hosts[key] += [each.host] if each.host else []
    return [(first[key], hosts[key]) for key in first]


def _on(hosts: Sequence[str]) -> str:
    """Returns the start of a line about nodes: `n1, n2 and 30 more: `."""
    if not hosts:
        return ""
    more = f" and {len(hosts) - 4} more" if len(hosts) > 4 else ""
    return f"{', '.join(hosts[:4])}{more}: "


class Ended(RuntimeError):
    """A program that gave no answer; the message is its last line or the timeout."""


def ask_program(module: str, *arguments: str, seconds: float) -> Any:
    """Returns the JSON that `python -m module` prints last; Ended when it fails or takes longer than `seconds`."""
    child = start_bound(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        said, complaint = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        raise Ended(f"no answer within {seconds:g} s") from None
    if child.returncode == 0 and said.strip():
        return json.loads(said.strip().splitlines()[-1])
    lines = [line for line in complaint.splitlines() if line.strip()]
    how = f"ended by {signal.Signals(-child.returncode).name}" if child.returncode < 0 else f"code {child.returncode}"
    raise Ended(lines[-1].strip() if lines else how)
