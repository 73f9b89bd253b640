"""Reads the results of a sweep from sweep_status.json and its run folders, and formats swept values.

Trap: a run may be pending, unfinished or deleted; missing values are None, never zero.
"""

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.ticker import MaxNLocator

from distft.config.command import another
from distft.config.errors import ConfigError
from distft.config.freeze import read_config
from distft.paths import absolute
from distft.report.curves import points
from distft.run import FINISHED, RunFolder, read_json
from distft.tasks.selection import BY_LOSS, Selection

MAX_LABELS = 8  # of one axis
FACTOR_FOR_LOG = 30  # a wider range of values gets a logarithmic axis


@dataclass(frozen=True)
class Scale:
    """The axis of one key: positions of its values; words, and numbers mixed with words, are at 0, 1, 2 ..."""

    kind: Literal["linear", "log", "words"]
    choices: list[Any]  # each once, in order

    @classmethod
    def of(cls, values: Iterable[Any]) -> "Scale":
        """Chooses a linear, logarithmic or categorical scale for these values."""
        choices = sorted({text_key(value): value for value in values}.values(), key=order)
        numbers = [number for number in map(as_number, choices) if number is not None]
        if len(numbers) < len(choices):
            return cls("words", choices)
        wide = max(map(abs, numbers)) > FACTOR_FOR_LOG * min((abs(x) for x in numbers if x), default=math.inf)
        if not wide:
            return cls("linear", choices)
        # Zero does not fit on a log axis, and a linear one would squeeze the small values: one step for each.
        return cls("log" if numbers[0] > 0 else "words", choices)

    def place(self, value: Any) -> float:
        if self.kind == "words":
            return [text_key(choice) for choice in self.choices].index(text_key(value))
        number = as_number(value)
        assert number is not None
        return number

    def ticks(self) -> list[tuple[float, str]]:
        """Returns positions and labels: the values themselves, or round numbers where there are many."""
        if self.kind == "words" or len(self.choices) <= MAX_LABELS:
            return [(self.place(choice), shortened(value_text(choice))) for choice in self.choices]
        low, high = self.place(self.choices[0]), self.place(self.choices[-1])
        if self.kind == "linear":
            steps = MaxNLocator(nbins=5).tick_values(low, high)
            return [(float(place), number_text(float(place))) for place in steps if low <= place <= high]
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        factors = (1, 3) if len(powers) < MAX_LABELS / 2 + 1 else (1,)
        round_ones = [factor * 10.0**power for power in powers for factor in factors]
        inside = [place for place in round_ones if low <= place <= high]
        return [(place, number_text(place)) for place in inside[:: math.ceil(len(inside) / MAX_LABELS)]]

    def share(self, here: float) -> float:
        """Returns a position as a share of the axis: 0 at the first value, 1 at the last."""
        low, high = self.place(self.choices[0]), self.place(self.choices[-1])
        if self.kind == "log":
            low, high, here = math.log(low), math.log(high), math.log(here)
        return (here - low) / (high - low) if high > low else 0.5


def as_number(value: Any) -> float | None:
    """Returns a finite number, also from text (`1e-5`, which YAML reads as text); None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def order(value: Any) -> tuple[bool, float, str]:
    """Sort key: numbers by size first, then words alphabetically."""
    number = as_number(value)
    return number is None, number or 0.0, value_text(value)


def text_key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def value_text(value: Any) -> str:
    """Returns a value as typed on a command line, numbers with four digits: 1e-5, null, true."""
    if isinstance(value, float):
        return number_text(value)
    return value or "''" if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def number_text(value: float, digits: int = 4) -> str:
    """Returns 16384, 0.05 or, below a thousandth, 3e-4."""
    if value.is_integer() and abs(value) < 1e7:
        return f"{value:.0f}"
    text = f"{value:.{digits}g}"
    if abs(value) < 1e-3 and "e" not in text:
        text = re.sub(r"\.?0*e", "e", f"{value:.{digits - 1}e}")
    return re.sub(r"e([+-])0*", lambda found: "e" + found[1].strip("+"), text)


def metric_text(value: float) -> str:
    """Returns a metric with four decimals, or with four digits for very small or large ones."""
    return f"{value:.4f}" if 0.01 <= abs(value) < 1000 or not value else number_text(value)


def shortened(text: str, length: int = 18) -> str:
    """Returns the text, shortened in the middle where it is longer than `length`."""
    if len(text) <= length:
        return text
    end = (length - 1) // 2
    return f"{text[: length - 1 - end]}…{text[len(text) - end :]}"


STATUS = "sweep_status.json"


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    folder: str
    values: Mapping[str, Any]  # of the swept keys
    seed: int | None
    command: str
    state: str
    reason: str | None  # the last line of its error
    log: str | None
    objective: float | None  # best value of eval.metric so far
    objective_step: int | None
    train_loss: float | None  # of the last step
    tokens: int
    process_hours: float
    peak_memory_gib: float | None
    evals: list[tuple[int, float]]  # step, eval.metric of the held-out rows
    eval_tokens: int | None  # target tokens of the held-out rows
    selection: Selection = BY_LOSS  # the same in all runs of a sweep

    @property
    def is_ranked(self) -> bool:
        """Whether the run finished with an evaluation; part of a run would not be a fair comparison."""
        return self.state in FINISHED and self.objective is not None

    @property
    def value(self) -> float:
        """The objective; only of a run that has one."""
        assert self.objective is not None, self.folder
        return self.objective

    @property
    def cost(self) -> float:
        """The objective with the sign with which lower is better."""
        return self.selection.sign * self.value


@dataclass(frozen=True)
class Sweep:
    """All runs of one sweep, in the order in which they were launched."""

    name: str
    command: str
    sampler: str
    swept: list[str]
    jobs: list[Job]
    selection: Selection = BY_LOSS


def find_sweep(value: str) -> Path:
    """Returns the sweep folder at `value`; ConfigError with a suggestion when it is not one."""
    folder = absolute(value)
    if (folder / STATUS).is_file():
        return folder
    is_run = RunFolder(folder).config.is_file()
    hint = f" It is a run folder. Try: run={value}" if is_run else another(folder, STATUS)
    raise ConfigError([f"sweep={value}: not a sweep folder (no {STATUS}).{hint}"])


def read_sweep(folder: Path) -> Sweep:
    """Returns the current state of the sweep; ConfigError when sweep_status.json is damaged."""
    try:
        status = read_json(folder / STATUS)
        selection = Selection.of(status.get("metric", "loss"), status.get("goal", "auto"))
        return Sweep(
            name=str(status["name"]),
            command=status.get("command") or "",
            sampler=status.get("sampler") or "grid",
            swept=list(status["swept"]),
            jobs=[read_job(folder, entry, selection) for entry in status["jobs"]],
            selection=selection,
        )
    except (json.JSONDecodeError, KeyError) as error:
        raise ConfigError([f"sweep={folder}: {STATUS} is damaged ({type(error).__name__}: {error})"]) from error


def read_job(folder: Path, entry: Mapping[str, Any], selection: Selection = BY_LOSS) -> Job:
    """Returns one run from its entry in sweep_status.json and its run folder."""
    run = RunFolder(folder / entry["run"])
    rows = list(run.read_metrics())
    train = [row for row in rows if row["split"] == "train"]
    held_out = [row for row in rows if row["split"] == "eval"]
    steps, values = points(held_out, selection.metric)
    evals = list(zip(map(int, steps), map(float, values), strict=True))
    objective, step = best_of(evals, entry.get("objective"), selection)
    _, train_losses = points(train, "loss")
    _, peaks = points(train, "peak_memory_gib")
    seconds = sum(row.get("seconds") or 0 for row in train)
    world = run.read_plan().world if run.plan.is_file() else 1
    return Job(
        folder=entry["run"],
        values=entry.get("values") or {},
        seed=seed_of(run, entry),
        command=entry.get("command") or shlex.join((run.read_commands() or [[]])[-1]),
        state=entry.get("state") or "pending",
        reason=entry.get("reason"),
        log=entry.get("log"),
        objective=objective,
        objective_step=step,
        train_loss=float(train_losses[-1]) if len(train_losses) else None,
        tokens=sum(row.get("tokens") or 0 for row in train),
        process_hours=seconds * world / 3600,
        peak_memory_gib=float(peaks.max()) if len(peaks) else None,
        evals=evals,
        eval_tokens=held_out[-1].get("target_tokens") if held_out else None,
        selection=selection,
    )


def best_of(
    evals: list[tuple[int, float]], recorded: float | None, selection: Selection
) -> tuple[float | None, int | None]:
    """Returns the objective and its step: the recorded one, else the best evaluation."""
    if recorded is not None and math.isfinite(recorded):
        return recorded, next((step for step, value in evals if math.isclose(value, recorded)), None)
    step, value = min(evals, key=lambda pair: selection.sign * pair[1], default=(None, None))
    return value, step


def seed_of(run: RunFolder, entry: Mapping[str, Any]) -> int | None:
    seed = (entry.get("values") or {}).get("seed")
    if seed is None and run.config.is_file():
        seed = read_config(run).seed
    return None if seed is None else int(seed)
