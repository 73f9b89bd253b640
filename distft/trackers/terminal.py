"""Shows a run in progress: a progress bar on a terminal, a few plain lines elsewhere; at the end a summary table."""

import math
import time
from collections import deque
from typing import TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from distft.goodput import read_timeline
from distft.run import RunFolder, state_in_words
from distft.runtime.logs import Patient
from distft.tasks.shown import metric_names, metric_text
from distft.trackers.contract import Row

_SECONDS_BETWEEN_LINES = 30  # of plain output
_STEPS_FOR_SPEED = 20


def screen(stream: TextIO) -> Console:
    """Returns a plain console on `stream` that ignores a closed terminal or pipe."""
    return Console(file=cast(TextIO, Patient(stream)), markup=False, highlight=False, emoji=False, soft_wrap=True)


_LOADING = "loading libraries and model"
_STAGES = {"submitted": _LOADING, "begun": _LOADING, "training": "ready, before its first numbers"}


class _Stage:
    """What a run does before its first row, for a progress bar; its timeline is read at most once a second."""

    def __init__(self, run: RunFolder) -> None:
        self._run, self._began, self._due, self._text = run, time.monotonic(), 0.0, ""

    def __str__(self) -> str:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + 1.0
            last = next(reversed(read_timeline(self._run)), None)
            is_queued = last is not None and last.event == "submitted" and self._run.job.is_file()
            self._text = "queued" if is_queued else _STAGES.get(last.event, "starting") if last else "starting"
        return f"{self._text}, {duration(time.monotonic() - self._began)}"


class Terminal:
    """Shows step, loss, tokens/s, remaining time and the last held-out loss, with its step where it differs."""

    def __init__(self, console: Console):
        self._console = console
        self._recent: deque[Row] = deque(maxlen=_STEPS_FOR_SPEED)
        self._held_out: Row | None = None
        self._last_line, self._line_of = 0.0, -1  # its time and its step
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[numbers]}"), console=console
        )

    def start(self, run: RunFolder) -> None:
        """Starts showing the run; rows of earlier attempts update the bar only."""
        self._steps = run.read_plan().steps
        self._old_rows = sum(1 for _ in run.read_metrics())
        self._task = self._bar.add_task(f"step 0/{self._steps}", total=self._steps or None, numbers=_Stage(run))
        if self._console.is_terminal:
            self._bar.start()

    def log(self, row: Row) -> None:
        """Shows a row of metrics.jsonl."""
        if row["split"] == "warning":
            if self._old_rows > 0:
                self._old_rows -= 1
            else:
                self._console.print(f"warning: {row['text']}")
            return
        if row["split"] == "train":
            self._recent.append(row)
        elif row["split"] == "eval":
            self._held_out = row
        else:  # the evaluation on training rows: in metrics.jsonl and trackers
            self._old_rows -= self._old_rows > 0
            return
        step = f"step {row['step']}" + (f"/{self._steps}" if self._steps else "")  # of a hosted model it is not known
        if self._console.is_terminal:
            numbers = "  ".join([*self._speed(), *self._measured(row["step"])])
            self._bar.update(self._task, description=step, completed=row["step"], numbers=numbers)
        elif self._old_rows > 0:
            self._old_rows -= 1
        elif row["split"] == "eval" or time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            numbers = [] if row["step"] == self._line_of else self._speed()  # the previous line has them
            numbers += self._measured(row["step"]) if row["split"] == "eval" else []
            self._last_line, self._line_of = time.monotonic(), row["step"]
            self._console.print("  ".join([step, *numbers]))

    def finish(self, state: str) -> None:
        """Stops the bar and keeps it on the screen."""
        if self._console.is_terminal:
            self._bar.stop()

    def _speed(self) -> list[str]:
        """Returns the loss of the last step, speed and remaining time."""
        if not self._recent:
            return []
        last = self._recent[-1]
        if not all("tokens" in row for row in self._recent):  # of a hosted model
            return [f"loss {_shown(last['loss'])}"]
        seconds = sum(row["seconds"] for row in self._recent)
        tokens = sum(row["tokens"] for row in self._recent)
        left = (self._steps - last["step"]) * seconds / len(self._recent)
        return [f"loss {_shown(last['loss'])}", f"{tokens / seconds:,.0f} tokens/s", f"{duration(left)} left"]

    def _measured(self, step: int) -> list[str]:
        """Returns the last held-out loss, with its step when it differs from `step`."""
        if self._held_out is None:
            return []
        of = self._held_out["step"]
        [name, *_] = metric_names(self._held_out) or ["loss"]
        main = [] if name in ("loss", "perplexity") else [f"{name} {metric_text(name, self._held_out[name])}"]
        texts = [f"held-out loss {_shown(self._held_out['loss'])}", *main]
        return [", ".join(texts) + (f" (step {of})" if of != step else "")]


def _shown(loss: float | None) -> str:
    return f"{loss:.4f}" if loss is not None and math.isfinite(loss) else "not finite"


def duration(seconds: float) -> str:
    """Formats a duration with its two largest units: 42s, 3m05s, 2h10m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def summary(run: RunFolder, exported: str = "") -> Table:
    """Returns the summary table of a finished run.

    exported: the checkpoint in final/ and the reason for it.
    """
    table = Table(title=str(run.path), title_justify="left", show_header=False)
    for name, value in _facts(run):
        table.add_row(name, value)
        if name == "model" and exported:
            table.add_row("", exported)
    return table


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    train = list(run.read_metrics("train"))
    held_out = list(run.read_metrics("eval"))
    steps = run.read_plan().steps
    facts = [("state", state_in_words(run.read_status()))]
    facts.append(("steps", f"{len(train)} of {steps}" if steps else f"{train[-1]['step'] if train else 0}"))
    if held_out:
        before, after = held_out[0], held_out[-1]
        change = f" ({after['loss'] / before['loss'] - 1:+.1%})" if before["loss"] else ""
        facts.append(("held-out loss", f"{before['loss']:.4f} -> {after['loss']:.4f}{change}"))
        facts += [
            (f"held-out {name}", f"{metric_text(name, before.get(name))} -> {metric_text(name, after[name])}")
            for name in metric_names(after)
        ]
    if train:
        facts.append(("training loss", f"{train[0]['loss']:.4f} -> {train[-1]['loss']:.4f}"))
    if train and "tokens" in train[-1]:
        seconds = sum(row["seconds"] for row in train)
        tokens = sum(row["tokens"] for row in train)
        facts.append(("speed", f"{tokens / seconds:,.0f} tokens/s, {duration(seconds)} in steps"))
        facts.append(("peak memory", f"{max(row['peak_memory_gib'] for row in train):.2f} GiB per process"))
    for name, path in (("model", run.final), ("report", run.path / "report.html")):
        if path.exists():
            facts.append((name, str(path)))
    return facts
