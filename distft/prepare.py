"""`distft prepare`: fetches model and data from the hub, checks the model, and tokenizes the rows into shards.

It runs before training, without accelerator and collectives, so that errors in the data appear before a machine is
requested.
"""

import re
import time
from pathlib import Path

import yaml
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from distft.config import Config, ConfigError, command, compose, help_text
from distft.config.cleaning import Clean
from distft.config.errors import did_you_mean, nearest
from distft.config.model_folder import facts_of, wrong_model
from distft.data.cleaning.options import rule_names
from distft.data.hub import local_folder
from distft.data.key import tokenizer_dir
from distft.data.report import summary
from distft.data.stage import ensure_prepared
from distft.data.tokenize import load_tokenizer
from distft.model_check.verdict import read_verdict, verdict_errors, write_verdict
from distft.paths import absolute
from distft.plan.teacher import teacher_folder, wrong_teacher
from distft.report.data import RATES, closed_gates, gather, write
from distft.run import EXIT_CLOSED_GATE
from distft.tasks import load_task
from distft.tensors.weight_files import weight_errors

SLOW_SECONDS = 2.0  # before progress is shown on a terminal
TERMINAL_SECONDS, LINE_SECONDS = 0.2, 30.0  # between two lines on a terminal, and in a log


OWN_KEYS = (
    ("out=DIR", "folder for data.html, data.json and dropped.jsonl"),
    (
        "fail_on={}",
        f"largest shares of rows, e.g. {{leakage: 0, bad_rows: 0.01}}; above one the exit code is {EXIT_CLOSED_GATE}",
    ),
)


def main(arguments: list[str]) -> int:
    """Prepares model, tokenizer and data of a config, or reports all of their errors (exit code 2).

    Returns EXIT_CLOSED_GATE where a share of the rows is above its limit in fail_on.
    """
    out, limits, overrides = _own_keys(arguments)
    config = compose(overrides)
    started = time.monotonic()
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with RowProgress(console) as progress:
        prepared = ensure_prepared(config, progress, lambda: check_model(config, console))
    how = "was cached" if prepared.reused else f"took {time.monotonic() - started:.1f} s"
    console.print(f"prepared data {prepared.folder.name} {how}", markup=False)
    for line in summary(prepared.report, prepared.folder):
        console.print(f"  {line}", markup=False)
    if out is None and not limits:
        return 0
    facts = gather(prepared.folder, config)
    if out is not None:
        write(prepared.folder, facts, out)
        console.print(f"report {out / 'data.html'}", markup=False)
    closed = closed_gates(facts, limits)
    for line in closed:
        console.print(line, markup=False)
    return EXIT_CLOSED_GATE if closed else 0


def _own_keys(arguments: list[str]) -> tuple[Path | None, dict[str, float], list[str]]:
    """Returns out, fail_on and the overrides; raises ConfigError for limits that are no shares of known gates."""
    mine = {argument.partition("=")[0]: argument.partition("=")[2] for argument in arguments if _is_own(argument)}
    errors, limits = [], {}
    try:
        limits = yaml.safe_load(re.sub(r":(?=\S)", ": ", mine.get("fail_on") or "{}"))
    except yaml.YAMLError:
        limits = None
    if not isinstance(limits, dict):
        errors.append(f"fail_on={mine['fail_on']} is not a mapping. Try: 'fail_on={{leakage: 0, bad_rows: 0.01}}'")
        limits = {}
    known = sorted({*RATES, *rule_names(Clean())})
    for name, limit in limits.items():
        if name not in known:
            meant = did_you_mean(nearest(str(name), known)) or f" Allowed: {', '.join(known)}"
            errors.append(f"fail_on.{name}: there is no such gate.{meant}")
        elif isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 <= limit <= 1:
            errors.append(
                f"fail_on.{name}={limit} is not a share of the rows, from 0 to 1. Try: fail_on={{{name}: 0.01}}"
            )
    if "out" in mine and not mine["out"]:
        errors.append("out= is empty. Try: out=DIR")
    if errors:
        raise ConfigError(errors)
    out = absolute(mine["out"]) if "out" in mine else None
    return out, limits, [argument for argument in arguments if not _is_own(argument)]


def _is_own(argument: str) -> bool:
    return argument.partition("=")[0] in ("out", "fail_on")


def check_model(config: Config, console: Console) -> None:
    """Raises ConfigError where files, tokenizer or the measured model check show that the model cannot be trained.

    The check takes some seconds, mostly to load torch; its result is cached per model.
    """
    model, cache_dir = config.model, config.cache_dir
    task = load_task(model.task)
    if not model.tiny:
        folder = local_folder(model.path, model.revision, cache_dir)
        wrong = list(wrong_model(folder, trust_remote_code=model.trust_remote_code, task=task))
        if not wrong:
            tokens = len(load_tokenizer(tokenizer_dir(config), model.trust_remote_code))
            wrong = list(weight_errors(folder, facts_of(folder), config.data.max_length, tokens))
        if not wrong:
            _measure(folder, config, console)
            wrong = verdict_errors(folder, cache_dir, task.name)
        if wrong:
            raise ConfigError(wrong)
    teacher = teacher_folder(config)
    if teacher is not None:
        wrong = wrong_teacher(config)
        if not wrong:
            _measure(teacher, config, console)
            wrong = wrong_teacher(config)  # with the verdict
        if wrong:
            raise ConfigError(wrong)


def _measure(folder: Path, config: Config, console: Console) -> None:
    """Measures a small instance of the model in `folder` and keeps the verdict, unless there is one."""
    task = load_task(config.model.task)
    if read_verdict(folder, config.cache_dir, task.name) is not None:
        return
    from distft.model_check.architecture import check_folder

    started = time.monotonic()
    write_verdict(folder, config.cache_dir, check_folder(folder, task), task.name)
    console.print(f"checked model {folder.name} in {time.monotonic() - started:.1f} s", markup=False)


class RowProgress:
    """Shows the rows read so far: on a terminal as a bar, elsewhere as a new line every LINE_SECONDS.

    The bar has an end, and a remaining time, where the sizes of the files are known.
    """

    def __init__(self, console: Console, quiet_seconds: float | None = None) -> None:
        """quiet_seconds: before it is shown; None: SLOW_SECONDS on a terminal, LINE_SECONDS elsewhere."""
        self.console = console
        self.every = TERMINAL_SECONDS if console.is_terminal else LINE_SECONDS
        self.quiet = SLOW_SECONDS if console.is_terminal else LINE_SECONDS
        self.quiet = self.quiet if quiet_seconds is None else quiet_seconds
        self.started = time.monotonic()
        self.due = self.started + self.quiet
        columns = (TextColumn("preparing"), BarColumn(), TextColumn("{task.description}"))
        self._bar = Bar(*columns, console=console, transient=True, auto_refresh=False)
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> "RowProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def __call__(self, rows: int, share: float | None) -> None:
        now = time.monotonic()
        if not rows:  # reading begins: the model's check before it took its own time
            self.started, self.due = now, now + self.quiet
        if not rows or now < self.due:
            return
        self.due = now + self.every
        numbers = [] if share is None else [f"{share:.0%}"]
        numbers += [f"{rows:,} rows read", f"{rows / (now - self.started):,.0f} rows/s"]
        numbers += [f"{_clock((now - self.started) * (1 - share) / share)} left"] if share else []
        if not self.console.is_terminal:
            self.console.print(f"preparing: {', '.join(numbers)}")
            return
        self._bar.update(self._task, total=None if share is None else 1.0, completed=share or 0.0)
        self._bar.update(self._task, description=", ".join(numbers))
        if self._bar.live.is_started:
            self._bar.refresh()
        else:
            self._bar.start()


def _clock(seconds: float) -> str:
    """Returns a duration as M:SS or H:MM:SS."""
    hours, minutes = divmod(round(seconds) // 60, 60)
    return f"{hours}:{minutes:02}:{round(seconds) % 60:02}" if hours else f"{minutes}:{round(seconds) % 60:02}"


if __name__ == "__main__":
    command(main, help=help_text("prepare", OWN_KEYS))
