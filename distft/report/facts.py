"""Reads the facts of a report from a run folder; a missing file leaves its part empty."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distft.checkpoint.choose import choose_for_export
from distft.config.freeze import read_config
from distft.config.key import Part
from distft.config.schema import Config, Export
from distft.config.source_item import source_items, source_text
from distft.generate.samples_file import Sample, before_and_after
from distft.goodput import Attempt, attempts, read_timeline
from distft.run import FINISHED, Plan, RunFolder, read_json
from distft.trackers.terminal import duration

_MIN_SHARE = 0.001  # of the wall time without idle time; smaller parts are summed


def goodput_words(goodput: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns lines of name and text from goodput.json: the parts by size, and the best interval between saves.

    Parts and goodput sum to 100% of the wall time without idle time, which is between an end and the next launch.
    """
    idle, failures = goodput["seconds"]["idle"], goodput["failures"]
    whole = goodput["wall_seconds"] - idle
    about = {"lost": f", {goodput['lost_steps']} steps", "checkpoint": f", {goodput['saves']} saves"}
    text = f"{goodput['goodput']:.1%} of {_length(whole)}, {failures} failure{'s' * (failures != 1)}"
    lines = [("goodput", text)]
    parts = {part: seconds for part, seconds in goodput["seconds"].items() if part not in ("productive", "idle")}
    small = {part: seconds for part, seconds in parts.items() if seconds < _MIN_SHARE * whole}
    for part, seconds in sorted(parts.items(), key=lambda each: -each[1]):
        if part not in small:
            lines.append((f"time: {part}", f"{seconds / whole:.1%}, {_length(seconds)}{about.get(part, '')}"))
    if (rest := sum(small.values())) >= _MIN_SHARE * whole > 0:
        lines.append(("time: other", f"{rest / whole:.1%}, {_length(rest)}"))
    if idle >= 1:
        lines.append(("without an attempt", f"{_length(idle)}, not included above"))
    if every := goodput["best_every_steps"]:
        cost, between = goodput["checkpoint_seconds"], goodput["seconds_between_failures"]
        rule = f"by Young and Daly: {cost:.2g} s per save, a failure every {_length(between)}"
        lines.append(("best checkpoint.every_steps", f"{every}, {rule}"))
    return lines


def attempt_columns(attempt: Attempt) -> dict[str, str]:
    """Returns an attempt as text by column: its start, steps, processes, end, and what changed."""
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
    for each in map(attempt_columns, attempts):
        parts = [each["began"], f"steps {each['steps']}" * bool(each["steps"])]
        parts += [f"{each['processes']} process{'es' * (each['processes'] != '1')}" * bool(each["processes"])]
        parts += [each["ended"], f"changed: {each['changed']}" * bool(each["changed"])]
        lines.append(f"{each['attempt']}: {', '.join(filter(None, parts))}")
    return lines


def _length(seconds: float) -> str:
    """Returns 9.3 s, 3m05s or 2h10m."""
    return duration(seconds) if seconds >= 60 else f"{seconds:.1f} s"


GIB = 2**30
Rows = Sequence[Mapping[str, Any]]  # of metrics.jsonl
Table = list[tuple[str, str]]


@dataclass(frozen=True)
class Change:
    """A held-out metric before the first step and after the last."""

    name: str
    before: float
    after: float
    better: bool

    @property
    def percent(self) -> float:
        return 100 * (self.after - self.before) / self.before if self.before else math.nan


@dataclass(frozen=True)
class Facts:
    """The content of one page."""

    name: str
    status: Mapping[str, Any]  # status.json
    command: str
    what: Table
    numbers: Table
    changes: list[Change]
    held_out_tokens: int
    exported: str
    memory: dict[str, dict[str, int]]
    strategy: str
    data: Table
    goodput: Table
    effective: Table
    environment: Table
    packages: Table
    config_text: str
    rows: Rows
    sources: list[str]
    attempts: list[Attempt]
    data_licences: str = ""  # ` (MIT; 1 of 2 sources names none)`; empty where no source names one
    samples: list[Sample] = field(default_factory=list)
    run: RunFolder | None = None
    step: int | None = None  # of the exported checkpoint; None: the last evaluation


def gather(run: RunFolder, step: int | None = None) -> Facts:
    """Returns the facts of a run, finished or not; only config.yaml is required.

    step: the step of the held-out metrics after training; None: the last evaluation.
    """
    config = read_config(run)
    plan = run.read_plan() if run.plan.is_file() else None
    rows = list(run.read_metrics())
    data_files = [Path(plan.data_dir) / "report.json"] if plan and plan.data_dir else []
    data_files = [file for file in data_files if file.is_file()]
    effective = run.path / "effective.json"
    environment = read_json(run.environment) if run.environment.is_file() else {}
    evals = [row for row in rows if row["split"] == "eval" and (step is None or row["step"] in (0, step))]
    files = [run.command, run.config, run.plan, run.environment, run.status, run.metrics, run.goodput, effective]
    return Facts(
        name=config.name or run.path.name,
        data_licences=data_licences(config),
        status=run.read_status(),
        command=last_command(run),
        what=what_ran(config, plan),
        numbers=planned(plan, rows, config.choices.get("strategy", "")) if plan else [],
        changes=held_out(evals),
        held_out_tokens=evals[-1].get("target_tokens", 0) if evals else 0,
        exported=exported(run, config.export),
        memory=plan.memory if plan else {},
        strategy=config.choices.get("strategy", ""),
        data=[pair for file in data_files for pair in flat(read_json(file))],
        goodput=goodput_words(read_json(run.goodput)) if run.goodput.is_file() else [],
        effective=list(flat(read_json(effective))) if effective.is_file() else [],
        environment=list(flat({key: value for key, value in environment.items() if key != "packages"})),
        packages=list(flat(environment.get("packages", {}))),
        config_text=run.config.read_text(),
        rows=rows,
        sources=[file.name for file in files if file.is_file()]
        + [f"{file.parent.name}/{file.name}" for file in data_files],
        attempts=attempts(read_timeline(run)),
        samples=before_and_after(run, step),
        run=run,
        step=step,
    )


def last_command(run: RunFolder) -> str:
    """Returns the command line of the last launch, the last one in command.txt."""
    lines = run.command.read_text().splitlines() if run.command.is_file() else []
    begins = [i for i, line in enumerate(lines) if line.startswith("python -m distft.launch")]
    return "\n".join(lines[begins[-1] :] if begins else lines)


def exported(run: RunFolder, export: Export) -> str:
    """Returns the checkpoint in final/ of a finished run and the reason for it; empty where export is off."""
    if run.read_status()["state"] not in FINISHED or not export.enabled:
        return ""
    try:
        return choose_for_export(run, export.at)[1]
    except ValueError:  # the checkpoints have been deleted
        return ""


def held_out(evals: Rows) -> list[Change]:
    """Returns the change of loss, perplexity and accuracy; empty with fewer than two evaluations."""
    if len(evals) < 2:
        return []
    first, last = evals[0], evals[-1]
    both = [
        name
        for name in ("loss", "perplexity", "accuracy")
        if first.get(name) is not None and last.get(name) is not None
    ]
    higher = {name: (last[name], first[name]) if name == "accuracy" else (first[name], last[name]) for name in both}
    return [Change(name, first[name], last[name], better=higher[name][0] > higher[name][1]) for name in both]


def data_licences(config: Config) -> str:
    """Returns the licences that the sources of the training rows name, in brackets; empty where none names one."""
    items = source_items(config.data.train)
    named = [item.licence for item in items if item.licence]
    unnamed = len(items) - len(named)
    rest = f"; {unnamed} of {len(items)} sources name{'s' * (unnamed == 1)} none" if unnamed else ""
    return f" ({', '.join(dict.fromkeys(named))}{rest})" if named else ""


def what_ran(config: Config, plan: Plan | None) -> Table:
    """Returns the main settings of the run, one line each."""
    held_out = config.data.eval
    shown = {
        "model": model_text(config, plan),
        "parameters": f"{plan.parameters:,}" if plan else None,
        "trained parameters": f"{plan.adapters:,} of adapters" if plan and plan.adapters else None,
        "training rows": source_text(config.data.train),
        "held-out rows": f"{100 * held_out:.3g} % of them" if isinstance(held_out, float) else source_text(held_out),
        "code from the model's folder": "allowed" if config.model.trust_remote_code else "not allowed",
        "strategy": choice_text(config.strategy, config.choices.get("strategy")),
        "optimizer": choice_text(config.optimizer, config.choices.get("optimizer")),
        "schedule": choice_text(config.schedule, config.choices.get("schedule")),
        "loss": choice_text(config.loss, config.choices.get("loss")),
        "tuning": choice_text(config.tuning, config.choices.get("tuning")),
        "precision": config.train.precision,
        "seed": config.seed,
    }
    return [(key, words(value)) for key, value in shown.items() if value is not None]


def model_text(config: Config, plan: Plan | None) -> str:
    """Returns `my-model, /models/my-model`: name and path of the model; `random tiny instance` for a tiny one."""
    name = (plan.model_name if plan else "") or config.choices.get("model", "")
    return ", ".join(filter(None, (name, "random tiny instance" if config.model.tiny else config.model.path)))


def choice_text(part: Part, word: str | None) -> str | None:
    """Returns `adamw, lr 0.0001`: the word chosen in a group, else the name of its class, and its values."""
    name = word or (part.target or "").rpartition(".")[2]
    values = [f"{key} {words(value)}" for key, value in part.entries() if key[0] != "_" and value is not None]
    return ", ".join([name] * bool(name) + values) or None


def planned(plan: Plan, rows: Rows, strategy: str) -> Table:
    """Returns the batch arithmetic of the plan, and the measured tokens, speed and memory."""
    train = [row for row in rows if row["split"] == "train"]
    peaks = [row["peak_memory_gib"] for row in train if row.get("peak_memory_gib")]
    seconds = sum(row.get("seconds") or 0 for row in train)
    tokens = sum(row.get("tokens") or 0 for row in train)
    targets = sum(row.get("target_tokens") or 0 for row in train)
    micro, accumulation, world = plan.micro_batch_size, plan.accumulation, plan.world
    batches = f"{accumulation} micro-batch{'es' * (accumulation > 1)}"
    if micro is None:
        step = ("tokens per forward", f"at most {plan.micro_batch_tokens:,}, in about {batches} of {world} processes")
    else:
        step = ("rows per step", f"{micro * accumulation * world} = {world} processes x {batches} x {micro} rows")
    table = [
        ("processes", f"{plan.world} = {plan.nodes} node{'s' * (plan.nodes > 1)} x {plan.processes_per_node}"),
        step,
        ("steps", f"{plan.steps:,} ({plan.epochs:.3g} epochs of {plan.rows:,} rows{', estimated' * plan.estimated})"),
        ("held-out rows", f"{plan.eval_rows:,}"),
    ]
    if seconds:
        table.append(("tokens read", f"{tokens:,} in {_length(seconds)}: {tokens / seconds:,.0f} per second"))
        table.append(("target tokens, trained on", f"{targets:,}"))
    if peaks:
        table.append(("peak memory per process", memory_by_kind(max(peaks), plan.memory.get(strategy))))
    return table


def memory_by_kind(peak: float, counted: dict[str, int] | None) -> str:
    """Returns the peak memory of a process, split into parameters, gradients, optimizer state and the rest.

    peak: GiB. counted: planned bytes by kind; None without a plan.
    """
    text = f"{peak:.2f} GiB, measured"
    if counted is None or counted["host"]:
        return text
    kinds = {
        kind: counted[kind] / 2**30
        for kind in ("parameters", "gradients", "optimizer", "gathered")
        if kind in counted  # "gathered" is missing under ZeRO and in plans of older versions
    }
    rest = peak - sum(kinds.values())
    listed = ", ".join(f"{kind} {gib:.2f}" for kind, gib in kinds.items())
    return f"{text}: {listed} as planned, activations and others {rest:.2f}" if rest > 0 else text


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yields each leaf of a JSON value with its path; a long list is shortened, with the number of omitted items."""
    if isinstance(value, dict):
        for key, inner in value.items():
            name = str(key).replace("_", " ")
            yield from flat(inner, f"{path} · {name}" if path else name)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for item in value[:20]:
            yield (
                path,
                ", ".join(f"{key} {text}" for key, text in flat(item)) if isinstance(item, dict) else words(item),
            )
        if len(value) > 20:
            yield path, f"and {len(value) - 20:,} more"
    elif value is not None and value not in ([], ""):
        yield path, words(value)


def words(value: Any) -> str:
    """Formats a value for a reader."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(words, value))
    return str(value)
