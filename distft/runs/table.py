"""Runs as tables and lines for a terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from distft.report.goodput import words
from distft.run import state_in_words
from distft.runs.facts import Facts
from distft.trackers.terminal import duration

_MOST = 5  # warnings and restarts that are shown


def overview(folder: Path, runs: Sequence[Facts]) -> Table:
    """Returns a table with a line for each run."""
    table = Table(title=f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} in {folder}", title_justify="left")
    for title in ("run", "state", "step", "loss", "held-out", "tokens/s", "checkpoint", "model"):
        table.add_column(title, justify="left" if title in ("run", "model", "state") else "right")
    for each in runs:
        table.add_row(
            str(each.run.path.relative_to(folder)),
            _state(each),
            f"{each.status['step']}/{each.steps}",
            _number(each.train[-1]["loss"] if each.train else None),
            _number(each.held_out["loss"] if each.held_out else None),
            _number(each.mean("tokens_per_second"), ",.0f"),
            _age(each),
            each.model,
        )
    return table


def shown(each: Facts) -> Table:
    """Returns a table of what is known of one run; what is not known has no line."""
    table = Table(title=str(each.run.path), title_justify="left", show_header=False)
    for name, value in _lines(each):
        table.add_row(name, value)
    return table


def line_of(row: dict[str, Any]) -> str:
    """Returns a row of metrics.jsonl as a line."""
    if row["split"] == "warning":
        return f"step {row['step']}  warning: {row['text']}"
    if row["split"] == "eval":
        return f"step {row['step']}  held-out loss {row['loss']:.4f}"
    parts = [f"step {row['step']}", f"loss {row['loss']:.4f}", f"gradient norm {row.get('grad_norm', 0.0):.3g}"]
    parts.append(f"{row['tokens'] / row['seconds']:,.0f} tokens/s")
    return "  ".join(parts)


def _lines(each: Facts) -> list[tuple[str, str]]:
    lines = [("model", each.model)] if each.model else []
    lines += [("state", _state(each)), ("step", f"{each.status['step']} of {each.steps}")]
    lines.append(("attempt", f"{each.status['attempt']} on {each.status.get('host', '?')}"))
    numbers = {
        "loss": _number(each.train[-1]["loss"] if each.train else None),
        "held-out loss": _number(each.held_out["loss"] if each.held_out else None),
        "tokens/s": _number(each.mean("tokens_per_second"), ",.0f"),
        "MFU": _number(each.mean("mfu"), ".1%"),
        "waits for data": _number(each.share("data"), ".1%"),
        "last checkpoint": f"{each.checkpoint}, {_age(each)} ago" if each.checkpoint else "none",
    }
    lines += [(name, text) for name, text in numbers.items() if text]
    lines += words(each.goodput) if each.goodput else []
    if slow := each.slowest:
        lines.append(("slowest rank", f"{slow.rank} on {slow.host}: {slow.phase}, {slow.ratio:.2f} x the usual"))
    if each.state == "running":
        lines += [
            (f"rank {row['rank']}", f"{row['phase']} of step {row['step']} on {row['host']}") for row in each.ranks
        ]
    for row in each.warnings[-_MOST:]:
        lines.append((f"warning, step {row['step']}", row["text"]))
    for row in each.restarts[-_MOST:]:
        error = row.get("error", {})
        lines.append((f"restart after attempt {row['attempt']}", f"from step {row['from_step']}: {error.get('type')}"))
    if error := each.status["error"]:
        who = "the run" if error["rank"] is None else f"rank {error['rank']}"
        lines += [("error", f"{who} on {error['host']}: {error['type']}: {error['message']}")]
        lines += [("log", str(error["log"]))] if error.get("log") else []
    return lines


def _state(each: Facts) -> str:
    silent = each.silent_seconds
    return f"{each.state}, silent for {duration(silent)}" if silent else state_in_words(each.status)


def _number(value: float | None, form: str = ".4f") -> str:
    return "" if value is None else format(value, form)


def _age(each: Facts) -> str:
    return "" if each.checkpoint_age_seconds is None else duration(each.checkpoint_age_seconds)
