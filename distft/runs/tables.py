"""Runs as tables, lines and JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from rich.table import Table

from distft.report.tables import goodput_words
from distft.run import MetricsRow, state_in_words
from distft.runs.facts import Facts
from distft.trackers.terminal import duration

_MAX_SHOWN = 5  # warnings and restarts
EVALUATED = {"eval": "held-out", "train_eval": "training rows:"}  # split -> words


def overview(folder: Path, runs: Sequence[Facts]) -> Table:
    """Returns a table with a line for each run."""
    models = {each.model for each in runs if each.model}
    columns = ("model",) if len(models) > 1 else ()  # in the title where all runs have the same
    title = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} in {folder}"
    title += f", model {models.pop()}" if len(models) == 1 else ""
    table = Table(title=title, title_justify="left")
    for title in ("run", "state", "step", "loss", "held-out", "tokens/s", "checkpoint", *columns):
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
            *([each.model] if columns else []),
        )
    return table


def shown(each: Facts) -> Table:
    """Returns a table with the state of one run, without unknown values."""
    table = Table(title=str(each.run.path), title_justify="left", show_header=False)
    for name, value in _lines(each):
        table.add_row(name, value)
    return table


def line_of(row: MetricsRow) -> str:
    """Formats a row of metrics.jsonl as one line."""
    if row["split"] == "warning":
        return f"step {row['step']}  warning: {row['text']}"
    if row["split"] in EVALUATED:
        return f"step {row['step']}  {EVALUATED[row['split']]} loss {row['loss']:.4f}"
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
    lines += [(fact.name, fact.text) for fact in goodput_words(each.goodput)] if each.goodput else []
    if slow := each.slowest:
        lines.append(("slowest rank", f"{slow.rank} on {slow.host}: {slow.phase}, {slow.ratio:.2f} x the median"))
    if each.state == "running":
        lines += [
            (f"rank {row['rank']}", f"{row['phase']} of step {row['step']} on {row['host']}") for row in each.ranks
        ]
    for row in each.warnings[-_MAX_SHOWN:]:
        lines.append((f"warning, step {row['step']}", row["text"]))
    for row in each.restarts[-_MAX_SHOWN:]:
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


class RunState(TypedDict):
    """One run of `list --json` and `show --json`; null for what is not known."""

    run: str
    state: str
    reason: str | None  # who or what stopped it
    step: int
    steps: int
    attempt: int
    exit_code: int | None
    model: str | None
    loss: float | None  # of the last step
    held_out_loss: float | None  # of the last evaluation
    tokens_per_second: float | None  # of the last steps
    mfu: float | None
    checkpoint: str | None
    checkpoint_age_seconds: float | None
    device_hours: float | None
    goodput: float | None
    silent_seconds: float
    warnings: list[str]
    restarts: int
    error: Mapping[str, Any] | None  # a distft.runtime.errors.Failure


def as_json(each: Facts) -> RunState:
    """Returns the state of one run as JSON values."""
    return {
        "run": str(each.run.path),
        "state": each.state,
        "reason": each.status.get("reason"),
        "step": each.status["step"],
        "steps": each.steps,
        "attempt": each.status["attempt"],
        "exit_code": each.status["exit_code"],
        "model": each.model or None,
        "loss": each.train[-1]["loss"] if each.train else None,
        "held_out_loss": each.held_out["loss"] if each.held_out else None,
        "tokens_per_second": each.mean("tokens_per_second"),
        "mfu": each.mean("mfu"),
        "checkpoint": each.checkpoint,
        "checkpoint_age_seconds": each.checkpoint_age_seconds,
        "device_hours": each.goodput.get("device_hours") if each.goodput else None,
        "goodput": each.goodput.get("goodput") if each.goodput else None,
        "silent_seconds": each.silent_seconds,
        "warnings": [row["text"] for row in each.warnings],
        "restarts": len(each.restarts),
        "error": each.status["error"],
    }
