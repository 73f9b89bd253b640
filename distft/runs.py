"""`distft runs`: lists, shows, follows and stops runs, on any machine that shares the run folders."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

from rich.table import Table

from distft.config import ConfigError, command
from distft.config.command import find_run, keywords
from distft.config.errors import did_you_mean, nearest
from distft.goodput import goodput_of
from distft.launchers.follow import NewRows
from distft.paths import absolute
from distft.report.tables import goodput_words
from distft.run import BY_YOU, MetricsRow, RunFolder, Status, read_json, read_row, state_in_words
from distft.runtime import stop
from distft.runtime.heartbeat import WORK
from distft.runtime.logs import last_lines
from distft.trackers.terminal import duration, screen

_ROWS = 200  # read from the end of a file
_STEPS = 20  # over which a speed is the mean
_SILENT_SECONDS = 120.0


@dataclass(frozen=True)
class Slowest:
    """The rank with the most compute seconds per step."""

    rank: int
    host: str
    phase: str  # with the largest distance to the other ranks
    ratio: float  # of its seconds in that phase to the median of all ranks (the lower median)


@dataclass(frozen=True)
class Facts:
    """The current state of a run."""

    run: RunFolder
    status: Status
    steps: int
    model: str  # name of what is loaded
    train: list[MetricsRow]
    held_out: MetricsRow | None
    warnings: list[MetricsRow]
    restarts: list[MetricsRow]  # lines of restarts.jsonl
    slowest: Slowest | None
    ranks: Sequence[Mapping[str, Any]]  # of health.json
    checkpoint: str | None
    checkpoint_age_seconds: float | None
    goodput: Mapping[str, Any] | None  # content of goodput.json

    @property
    def state(self) -> str:
        return str(self.status["state"])

    @property
    def silent_seconds(self) -> float:
        """Seconds since a running run wrote status.json; 0 up to the limit."""
        silent = time.time() - self.status.get("time", time.time())
        return silent if self.state == "running" and silent > _SILENT_SECONDS else 0.0

    def mean(self, key: str) -> float | None:
        """Returns the mean of a number over the last steps; None where they lack it."""
        values = [row[key] for row in self.train[-_STEPS:] if row.get(key) is not None]
        return sum(values) / len(values) if values else None

    def share(self, phase: str) -> float | None:
        """Returns the share of a phase in the seconds of the last steps, on rank 0."""
        rows = [row for row in self.train[-_STEPS:] if "phases" in row]
        seconds = sum(row["seconds"] for row in rows)
        return sum(row["phases"].get(phase, 0.0) for row in rows) / seconds if seconds else None


def find_runs(folder: Path) -> list[RunFolder]:
    """Returns the runs in a folder and in its sweeps, the last written first."""
    found = [file.parent for pattern in ("*/status.json", "*/*/status.json") for file in folder.glob(pattern)]
    runs = [RunFolder(path) for path in found if (path / "plan.json").is_file()]
    inside = {run.path for run in runs}
    runs = [run for run in runs if run.path.parent not in inside]  # evaluations are runs inside a run
    return sorted(runs, key=lambda run: run.status.stat().st_mtime, reverse=True)


def facts(run: RunFolder, goodput: Mapping[str, Any] | None = None) -> Facts:
    """Returns the state of a run, without files that are missing or half written.

    goodput: up to now; None: from goodput.json, written at the end of the last attempt.
    """
    rows = list(_rows(run.metrics, _ROWS))
    health = _json(run.health) or {}
    status = run.read_status()
    ranks = health.get("ranks", []) if health.get("attempt") == status["attempt"] else []
    plan = _json(run.plan) or {}
    latest = run.checkpoints / "latest"
    is_there = latest.is_symlink()
    return Facts(
        run=run,
        status=status,
        steps=plan.get("steps", 0),
        model=str(plan.get("model_name") or ""),
        train=[row for row in rows if row.get("split") == "train"],
        held_out=next((row for row in reversed(rows) if row.get("split") == "eval"), None),
        warnings=[row for row in rows if row.get("split") == "warning"],
        restarts=list(_rows(run.path / "restarts.jsonl", _ROWS)),
        slowest=slowest_of(ranks),
        ranks=ranks,
        checkpoint=latest.readlink().name if is_there else None,
        checkpoint_age_seconds=time.time() - latest.lstat().st_mtime if is_there else None,
        goodput=goodput or _json(run.goodput),
    )


def slowest_of(ranks: Sequence[Mapping[str, Any]]) -> Slowest | None:
    """Returns the rank with the most compute seconds per step; None where they are unknown, or for one rank."""
    spent = {row["rank"]: row["seconds_a_step"] for row in ranks if row.get("seconds_a_step")}
    if len(spent) < 2:
        return None
    rank = max(spent, key=lambda each: sum(spent[each].get(phase, 0.0) for phase in WORK))
    usual = {phase: median_low(seconds.get(phase, 0.0) for seconds in spent.values()) for phase in WORK}
    phase = max(WORK, key=lambda each: spent[rank].get(each, 0.0) - usual[each])
    ratio = spent[rank].get(phase, 0.0) / usual[phase] if usual[phase] else 1.0
    host = next(row["host"] for row in ranks if row["rank"] == rank)
    return Slowest(rank, host, phase, ratio)


def _rows(file: Path, count: int) -> Iterator[MetricsRow]:
    for line in last_lines(file, count):
        try:
            row = read_row(line)
        except ValueError:  # truncated at its start, or being written
            continue
        if isinstance(row, dict):
            yield row


def _json(file: Path) -> Mapping[str, Any] | None:
    try:
        found = read_json(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


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


VERBS = {
    "list": "a table of all runs in a folder and its sweeps: [runs_dir=runs]",
    "show": "state, speed, goodput, slowest rank and phase, last checkpoint, warnings, restarts: run=DIR",
    "tail": "follows the run's steps until it ends: run=DIR",
    "stop": "requests that it saves at the next step border and ends: run=DIR",
}
HELP = "usage: python -m distft.runs VERB [KEY=VALUE]\n\n" + "\n".join(f"  {k:<6}{v}" for k, v in VERBS.items())
_ENDED = ("completed", "stopped_early", "preempted", "failed")


def main(arguments: list[str]) -> int:
    """Returns 0; 1 when `stop` finds that the run has already ended."""
    verb, *rest = arguments or ["list"]
    if verb not in VERBS:
        raise ConfigError(
            [f"{verb}: unknown command. Allowed: {', '.join(VERBS)}.{did_you_mean(nearest(verb, VERBS))}"]
        )
    if verb == "list":
        return list_runs(absolute(keywords(rest, {"runs_dir": "folder of runs"}, ()).get("runs_dir", "runs")))
    run = find_run(keywords(rest, {"run": "the run's folder"}, ("run",))["run"])
    return {"show": show, "tail": tail, "stop": stop_run}[verb](run)


def list_runs(folder: Path) -> int:
    """Prints a line for each run, newest first."""
    if not folder.is_dir():
        raise ConfigError([f"runs_dir={folder}: there is no such folder, and so no run. Try: runs_dir=FOLDER"])
    screen(sys.stdout).print(overview(folder, [facts(run) for run in find_runs(folder)]))
    return 0


def show(run: RunFolder) -> int:
    """Prints the state of a run; its goodput up to now while it is running."""
    running = run.read_status()["state"] == "running"
    screen(sys.stdout).print(shown(facts(run, goodput_of(run) if running else None)))
    return 0


def tail(run: RunFolder) -> int:
    """Prints a line for each step and evaluation from the start of the run until it has ended."""
    console, rows = screen(sys.stdout), NewRows(run)
    while True:
        is_ended = run.read_status()["state"] in _ENDED  # read before the last rows, so that none is missed
        for row in rows.read():
            console.print(line_of(row))
        if is_ended:
            console.print(f"{run.path.name}: {state_in_words(run.read_status())}")
            return 0
        time.sleep(1.0)


def stop_run(run: RunFolder) -> int:
    """Writes the stop request that rank 0 polls; returns 1 when the run has already ended."""
    status = run.read_status()
    if status["state"] in _ENDED:
        print(f"{run.path.name}: already {status['state']}", file=sys.stderr)
        return 1
    stop.request(run, status["attempt"], f"{BY_YOU} distft runs stop")
    print(f"{run.path.name} saves at the end of the step in progress, and stops. The same launch command continues it.")
    return 0


def entry(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    command(entry, help=HELP)
