"""Reads the facts of a report from a run folder; a missing file leaves its part empty.

Every fact names its source as `file#key`. The key is the dotted path of a JSON or YAML file; of metrics.jsonl it is
`split.step.key`, as in `metrics.jsonl#eval.16.loss`, with `*` for all steps.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distft.checkpoint.choose import choose_for_export
from distft.config.data import source_items, source_text
from distft.config.freeze import read_config
from distft.config.key import Part
from distft.config.schema import Config, Export
from distft.generate.samples_file import FILE as SAMPLES
from distft.generate.samples_file import Sample, before_and_after
from distft.goodput import Attempt, attempts, read_timeline
from distft.report.outcomes import Outcome, outcomes
from distft.report.settings import Setting, settings_of
from distft.report.tables import (
    Fact,
    Failed,
    Table,
    failure_of,
    flat,
    goodput_words,
    length,
    memory_by_kind,
    warnings_of,
    words,
)
from distft.report.verdicts import Verdict, attempts_of, continues, verdicts
from distft.run import FINISHED, Plan, RunFolder, Status, read_json
from distft.tasks import load_task
from distft.tasks.selection import Selection
from distft.tasks.shown import metric_names

GIB = 2**30
Rows = Sequence[Mapping[str, Any]]  # of metrics.jsonl


@dataclass(frozen=True)
class Change:
    """A held-out metric before the first step and after the last."""

    name: str
    before: float
    after: float
    better: bool
    steps: tuple[int, int] = (0, 0)

    @property
    def percent(self) -> float:
        return 100 * (self.after - self.before) / self.before if self.before else math.nan

    @property
    def sources(self) -> tuple[str, str]:
        """The sources of the values before and after."""
        before, after = (f"metrics.jsonl#eval.{step}.{self.name}" for step in self.steps)
        return before, after


@dataclass(frozen=True)
class Facts:
    """The content of one page."""

    name: str
    status: Status
    command: str
    what: Table
    numbers: Table
    changes: list[Change]
    held_out_tokens: int  # units of the loss
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
    unit: str = "target token"  # of the loss
    data_licences: str = ""  # ` (MIT; 1 of 2 sources names none)`; empty where no source names one
    samples: list[Sample] = field(default_factory=list)
    samples_source: str = f"eval/{SAMPLES}"
    verdicts: list[Verdict] = field(default_factory=list)
    failure: Failed | None = None
    warnings: Table = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    funnel: list["Flow"] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    run: RunFolder | None = None
    step: int | None = None  # of the exported checkpoint; None: the last evaluation


@dataclass(frozen=True)
class Flow:
    """Rows at one point of the data stage."""

    name: str
    rows: int
    share: float  # of the rows read
    source: str
    left: bool = False  # they left the data here


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
    prepared = [(f"{file.parent.name}/{file.name}", read_json(file)) for file in data_files]
    goodput = read_json(run.goodput) if run.goodput.is_file() else {}
    status, changes = run.read_status(), held_out(evals)
    chosen, tries = exported(run, config.export), attempts(read_timeline(run))
    said = verdicts(status, plan, rows, goodput, prepared[0] if prepared else None, chosen, config.eval.selection)
    return Facts(
        name=config.name or run.path.name,
        data_licences=data_licences(config),
        status=status,
        command=last_command(run),
        what=what_ran(config, plan),
        numbers=planned(plan, rows, config.choices.get("strategy", "")) if plan else [],
        changes=changes,
        unit=unit_of(config),
        held_out_tokens=evals[-1].get("target_tokens", 0) if evals else 0,
        exported=chosen,
        memory=plan.memory if plan else {},
        strategy=config.choices.get("strategy", ""),
        data=[fact for name, found in prepared for fact in flat(found, name)],
        goodput=goodput_words(goodput) if goodput else [],
        effective=list(flat(read_json(effective), "effective.json")) if effective.is_file() else [],
        environment=list(
            flat({key: value for key, value in environment.items() if key != "packages"}, "environment.json")
        ),
        packages=list(flat(environment.get("packages", {}), "environment.json", "packages")),
        config_text=run.config.read_text(),
        rows=rows,
        sources=[file.name for file in files if file.is_file()] + [name for name, _ in prepared],
        attempts=tries,
        samples=before_and_after(run, step),
        run=run,
        step=step,
        verdicts=[*said[:1], *continues(run, status), *attempts_of(tries), *said[1:]],
        failure=failure_of(status.get("error")),
        warnings=warnings_of(rows),
        settings=settings_of(config),
        funnel=[flow for name, found in prepared for flow in funnel(found, name)],
        outcomes=outcomes(run),
    )


def unit_of(config: Config) -> str:
    """Returns what the loss is a mean over."""
    unit = load_task(config.model.task).unit
    return "target token" if unit == "token" else unit


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
        return choose_for_export(run, export.at, read_config(run).eval.selection, export.average_last)[1]
    except ValueError:  # the checkpoints have been deleted
        return ""


def held_out(evals: Rows) -> list[Change]:
    """Returns the change of the loss and the task's metrics; empty with fewer than two evaluations."""
    if len(evals) < 2:
        return []
    first, last = evals[0], evals[-1]
    steps = (first.get("step", 0), last.get("step", 0))
    names = ("loss", *metric_names(last))
    both = [name for name in names if first.get(name) is not None and last.get(name) is not None]
    return [
        Change(name, first[name], last[name], _is_better(name, first[name], last[name]), steps=steps) for name in both
    ]


def _is_better(metric: str, before: float, after: float) -> bool:
    return Selection.of(metric, "auto").is_better(after, before)


def funnel(report: Mapping[str, Any], file: str) -> Iterator[Flow]:
    """Yields the rows of the data stage from what was read to the splits. report: report.json of prepared data."""
    streams = report.get("streams", {})
    read = sum(stream["read"] for stream in streams.values())

    def flow(name: str, rows: int, key: str, left: bool = False) -> Flow:
        return Flow(name, rows, rows / read, f"{file}#{key}", left)

    if not read:
        return
    for stream, found in streams.items():
        yield flow(f"read from data.{stream}", found["read"], f"streams.{stream}.read")
        for key, name in _LEFT.items():
            if rows := found.get(key, 0):
                yield flow(name, rows, f"streams.{stream}.{key}", left=True)
    for split, name in (("train", "trained on"), ("eval", "held out")):
        if rows := report["splits"].get(split, {}).get("rows", 0):
            yield flow(name, rows, f"splits.{split}.rows")


_LEFT = {
    "bad": "malformed",
    "dropped": "dropped by cleaning",
    "untrained": "without a token to train on",
    "too_long": "too long",
}


def data_licences(config: Config) -> str:
    """Returns the licences that the sources of the training rows name, in brackets; empty where none names one."""
    items = source_items(config.data.train)
    named = [item.licence for item in items if item.licence]
    unnamed = len(items) - len(named)
    rest = f"; {unnamed} of {len(items)} sources name{'s' * (unnamed == 1)} none" if unnamed else ""
    return f" ({', '.join(dict.fromkeys(named))}{rest})" if named else ""


def what_ran(config: Config, plan: Plan | None) -> Table:
    """Returns the main settings of the run, one line each."""
    held_out, is_hosted = config.data.eval, plan is not None and plan.is_hosted
    named = (config.launcher.model, "config.yaml#launcher.model")
    shown = {
        "model": named if is_hosted else (model_text(config, plan), "config.yaml#model.path"),
        "parameters": (f"{plan.parameters:,}" if plan and not is_hosted else None, "plan.json#parameters"),
        "trained parameters": (
            f"{plan.adapters:,} of adapters" if plan and plan.adapters else None,
            "plan.json#adapters",
        ),
        "training rows": (source_text(config.data.train), "config.yaml#data.train"),
        "held-out rows": (
            f"{100 * held_out:.3g} % of them" if isinstance(held_out, float) else source_text(held_out),
            "config.yaml#data.eval",
        ),
        "code from the model's folder": (
            None if is_hosted else "allowed" if config.model.trust_remote_code else "not allowed",
            "config.yaml#model.trust_remote_code",
        ),
        **{
            group: (choice_text(getattr(config, group), config.choices.get(group)), f"config.yaml#{group}")
            for group in (() if is_hosted else ("strategy", "optimizer", "schedule", "loss", "tuning"))
        },
        "precision": (None if is_hosted else config.train.precision, "config.yaml#train.precision"),
        "seed": (config.seed, "config.yaml#seed"),
    }
    return [Fact(key, words(value), source) for key, (value, source) in shown.items() if value is not None]


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
    if plan.is_hosted:
        rows_of = Fact("training rows", f"{plan.rows:,}", "plan.json#rows")
        return [rows_of, Fact("held-out rows", f"{plan.eval_rows:,}", "plan.json#eval_rows")]
    micro, accumulation, world = plan.micro_batch_size, plan.accumulation, plan.world
    batches = f"{accumulation} micro-batch{'es' * (accumulation > 1)}"
    if micro is None:
        text = f"at most {plan.micro_batch_tokens:,}, in about {batches} of {world} processes"
        step = Fact("tokens per forward", text, "plan.json#micro_batch_tokens plan.json#accumulation")
    else:
        text = f"{micro * accumulation * world} = {world} processes x {batches} x {micro} rows"
        step = Fact("rows per step", text, "plan.json#micro_batch_size plan.json#accumulation plan.json#world")
    nodes = f"{plan.world} = {plan.nodes} node{'s' * (plan.nodes > 1)} x {plan.processes_per_node}"
    estimated = ", estimated" * plan.estimated
    table = [
        Fact("processes", nodes, "plan.json#nodes plan.json#processes_per_node"),
        step,
        Fact(
            "steps",
            f"{plan.steps:,} ({plan.epochs:.3g} epochs of {plan.rows:,} rows{estimated})",
            "plan.json#steps plan.json#epochs plan.json#rows",
        ),
        Fact("held-out rows", f"{plan.eval_rows:,}", "plan.json#eval_rows"),
    ]
    if seconds:
        read = f"{tokens:,} in {length(seconds)}: {tokens / seconds:,.0f} per second"
        table.append(Fact("tokens read", read, "metrics.jsonl#train.*.tokens metrics.jsonl#train.*.seconds"))
        table.append(Fact("target tokens, trained on", f"{targets:,}", "metrics.jsonl#train.*.target_tokens"))
    if peaks:
        text = memory_by_kind(max(peaks), plan.memory.get(strategy))
        sources = f"metrics.jsonl#train.*.peak_memory_gib plan.json#memory.{strategy}"
        table.append(Fact("peak memory per process", text, sources))
    return table
