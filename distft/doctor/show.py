"""Findings on a terminal: what is well in a quiet table, what is not below it, with what to do, problems last."""

from collections import defaultdict
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from distft.doctor.finding import Finding

_MARKS = {"ok": "ok", "warning": "warning", "problem": "PROBLEM"}


def show(findings: Sequence[Finding], console: Console) -> None:
    """Prints every finding once; what several nodes have in common stands in one line."""
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
    """Returns findings with the nodes that have them in common; with numbers that differ they stand apart."""
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
