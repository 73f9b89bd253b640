"""Runs a sweep from its command line to its exit code, and plans one for `distft plan -m`.

All jobs are checked and planned before the first one starts.
"""

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override as Swept
from hydra.types import HydraContext
from omegaconf import OmegaConf
from rich.table import Table

from distft.compat.hydra import no_callbacks
from distft.config.compose import Config, compose
from distft.config.errors import ConfigError
from distft.launch.history import kept_rows
from distft.launch.stages import check_devices, check_writable, go_on_in_background, make_part, with_name, write_results
from distft.launchers.contract import Launcher
from distft.launchers.follow import caught_signals
from distft.plan import make_plan
from distft.plan.show import UNITS, fits_in_words, unit_of
from distft.run import EXIT_PREEMPTED, EXIT_WRONG_CONFIG, FINISHED, Plan, RunFolder
from distft.runtime.disk import alone
from distft.runtime.environment import redact
from distft.runtime.process import start_bound
from distft.sweep.board import Board, SweepStatus, failures, table
from distft.sweep.jobs import (
    Job,
    JobErrors,
    earlier_points,
    make_jobs,
    named,
    plan_all,
    prepare_all,
    refuse_duplicates,
    words,
)
from distft.sweep.request import Point, Request, config_loader, corners, parse, read_request
from distft.sweep.submission import Detached, Stopped, Submission
from distft.trackers.terminal import screen

_WIDTH = 200  # of a table in a file
_DECIDES = ("eval.metric", "eval.goal")  # what the best job is
_MAX_CHECKED = 200  # points to collect errors from, when the first point has errors


@dataclass(frozen=True)
class Sweep:
    """A sweep before its first job starts."""

    folder: Path
    request: Request
    config: Config  # of the first point, with the keys of the sweep
    earlier: Mapping[str, Point]  # points of an earlier start by folder name
    jobs: Sequence[Job]  # of a grid all, of a search those of an earlier start

    @property
    def export(self) -> bool | None:
        """Whether all jobs are exported, or none; None: only the best."""
        return self.config.export.enabled if self.request.sets_export else None


def multirun(overrides: list[str]) -> int:
    """Runs a sweep; returns 0 when all jobs completed, 75 after a signal (the same command continues it), else 1."""
    sweep, launcher, sweeper = compose_sweep(overrides)
    folder, request, config = sweep.folder, sweep.request, sweep.config
    status = SweepStatus(folder, sweep_command(overrides), request.keys, config.choices["sweep"], config.eval.selection)
    with alone(folder / ".lock") as held:
        if not held:
            raise ConfigError([f"name={folder.name}: another launch is using {folder}. Try: another name"])
        status.update(sweep.jobs)
        is_background = not config.launcher.wait and not launcher.outlives_launch
        if is_background and go_on_in_background(folder, folder / "sweep.log", "kill -INT PID"):
            return 0
        try:
            by_signal = run_jobs(sweep, launcher, sweeper, status)
        except Detached:
            return 0
        return finish(sweep, status, by_signal=by_signal)


def compose_sweep(overrides: Sequence[str]) -> tuple[Sweep, Launcher, Any]:
    """Returns a sweep whose jobs are checked, prepared and planned, its launcher, and its sweeper of Hydra's."""
    request = read_request(overrides)
    parsed = parse(request.swept)
    if swept := [key for key in request.keys if key in _DECIDES]:
        rule = "the jobs of a sweep are ranked by one metric. Try: one value of it"
        raise ConfigError(f"{key}: {rule}" for key in swept)
    config = shared_config(request, parsed)
    launcher, sweeper = make_part(config, "launcher"), make_part(config, "sweep")
    run, config = with_name(config)
    folder = run.path
    check_writable(folder.parent)
    check_devices(config)
    if run.config.is_file():
        raise ConfigError([f"name={folder.name}: {folder} is a run folder. Try: another name"])
    earlier = earlier_points(folder, request.keys)
    known, further = sweeper.points(parsed, earlier)
    sweep = Sweep(folder, request, config, earlier, checked(folder, request, known, further, earlier))
    if config.sweep.only_failed and not any(job.has_failed for job in sweep.jobs):
        raise ConfigError([f"sweep.only_failed=true: no job in {folder} has failed. Try: false"])
    return sweep, launcher, sweeper


def sweep_command(overrides: Sequence[str]) -> str:
    """Returns the command line of the sweep with secrets redacted."""
    return redact(shlex.join(["python", "-m", "distft.launch", "-m", *overrides]))


def shared_config(request: Request, parsed: Sequence[Swept]) -> Config:
    """Returns the config of the first point, which is the sweep's; ConfigError with the errors of all points."""
    overrides = (*request.shared, *request.own, *corners(parsed, most=1)[0])
    try:
        return compose(overrides, sweep=True, kept=kept_rows)
    except ConfigError as error:
        errors = JobErrors()
        for point in corners(parsed, _MAX_CHECKED):
            try:
                compose(request.of_job(point), sweep=True, kept=kept_rows)
            except ConfigError as other:
                errors.add(words(point), [each for each in other.messages if each not in error.messages])
        raise ConfigError([*error.messages, *errors.messages()]) from error


def checked(
    folder: Path,
    request: Request,
    known: Sequence[Point],
    further: Sequence[Point],
    earlier: Mapping[str, Point],
    first: int = 0,
) -> list[Job]:
    """Returns the jobs of the known points, prepared and planned; further points are only checked."""
    jobs = make_jobs(folder, request, named(known, first, earlier))
    others = make_jobs(folder, request, {words(point): point for point in further})
    refuse_duplicates(jobs)
    prepare_all([*jobs, *others])
    return plan_all([*jobs, *others])[: len(jobs)]


def run_jobs(sweep: Sweep, launcher: Launcher, sweeper: Any, status: SweepStatus) -> bool:
    """Runs Hydra's sweeper over the points; returns whether a signal stopped it."""
    made = {job.point: job for job in sweep.jobs}
    console, settings, swept = screen(sys.stderr), sweep.config.sweep, list(sweep.request.swept)

    def make(points: Sequence[Point], first: int) -> list[Job]:
        if all(point in made for point in points):
            return [made[point] for point in points]
        return checked(sweep.folder, sweep.request, points, [], sweep.earlier, first)

    count = settings.trials or len(sweep.jobs)
    console.print(f"{sweep.folder}: a sweep of {', '.join(sweep.request.keys)}, {count} jobs")
    with caught_signals() as caught, Board(console, status.selection) as board:
        submission = Submission(
            make,
            launcher,
            status,
            board,
            caught,
            only_failed=settings.only_failed,
            fail_fast=settings.fail_fast,
        )
        sweeper.begin(submission, sweep.earlier, sweep.config.launcher.jobs_at_once or 1, status.selection.goal)
        about = {"mode": "MULTIRUN", "sweep": {"dir": str(sweep.folder)}, "overrides": {"task": swept}}
        sweeper.setup(
            hydra_context=HydraContext(config_loader(), no_callbacks()),
            task_function=lambda _: None,
            config=OmegaConf.create({"hydra": about}),
        )
        with suppress(Stopped):
            sweeper.sweep(swept)
        return bool(caught)


def finish(sweep: Sweep, status: SweepStatus, *, by_signal: bool) -> int:
    """Exports the requested jobs (by default the best), prints table and failures; returns the exit code."""
    best, folder, is_done = status.best(), sweep.folder, True
    if not by_signal:
        for job in status.jobs:
            if job["state"] in FINISHED and (job is best if sweep.export is None else sweep.export):
                export = sweep.config.changed({"export.enabled": True}).export
                is_done = write_results(RunFolder(folder / job["run"]), export=export) and is_done
        write_page(folder)
    out, console = screen(sys.stdout), screen(sys.stderr)
    out.width = out.width if out.is_terminal else _WIDTH
    out.print(table(str(folder), sweep.request.keys, status.jobs, status.selection))
    for line in result_lines(folder):
        out.print(line)
    for line in failures(status.jobs):
        console.print(line)
    if by_signal:
        console.print(f"{folder}: stopped. The same command, with name={folder.name}, continues it.")
        return EXIT_PREEMPTED
    return 0 if status.is_complete and is_done else 1


def result_lines(folder: Path) -> list[str]:
    """Returns lines with the result of the sweep and its uncertainty, the best model and the page."""
    from distft.report.sweep.headline import headline  # needed only at the end
    from distft.report.sweep.jobs import read_sweep
    from distft.report.sweep.settings import rank

    sweep = read_sweep(folder)
    ranking = rank(sweep)
    lines = ["".join(headline(sweep, ranking))]
    if len(ranking) > 1 and not any(setting.interval for setting in ranking):
        lines.append("Each setting has one run, so this order may be chance. Try: add seed=0,1,2")
    model = RunFolder(folder / ranking[0].best.folder).final if ranking else None
    lines += [f"model   {model}"] if model and model.is_dir() else []
    page = folder / "report.html"
    return [*lines, f"report  {page}"] if page.is_file() else lines


def write_page(folder: Path) -> None:
    """Runs `distft.report sweep=DIR` to write the page; prints its output when it fails."""
    command = [sys.executable, "-m", "distft.report", f"sweep={folder}"]
    process = start_bound(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    output, _ = process.communicate()
    if process.returncode not in (0, EXIT_WRONG_CONFIG):
        screen(sys.stderr).print(f"{folder}: the page of the sweep could not be written: {output.strip()}")


_MAX_OF_SEARCH = 64  # combinations of choices and range ends


def plan_sweep(overrides: Sequence[str]) -> tuple[str, dict[str, tuple[Config, Plan]]]:
    """Returns a title, and config and plan of each job by name; ConfigError with the errors of all jobs.

    The points of a search are not known before it runs: then combinations of its choices and range ends stand in.
    """
    request = read_request(overrides)
    parsed = parse(request.swept)
    config = shared_config(request, parsed)
    known, further = make_part(config, "sweep").points(parsed, {})
    points = named(known) if known else {words(point): point for point in corners(parsed, _MAX_OF_SEARCH)}
    planned, errors = dict[str, tuple[Config, Plan]](), JobErrors()
    for name, point in points.items():
        try:
            job = compose(request.of_job(point), sweep=True)
            planned[name] = job, make_plan(job)
        except ConfigError as error:
            errors.add(name, error.messages)
    errors.raise_any()
    if further or not known:
        trials = config.sweep.trials
        return f"a search of {', '.join(request.keys)}, {trials} jobs. Choices and range ends:", planned
    return f"a sweep of {', '.join(request.keys)}, {len(planned)} job{'s' * (len(planned) != 1)}", planned


def planned_table(title: str, planned: dict[str, tuple[Config, Plan]], memory_gib: float | None) -> Table:
    """Returns a table of the jobs: strategy, processes, steps, tokens and the memory of weights and state per process.

    memory_gib: of a device; with it, a last column shows whether the job fits.
    """
    shape = Table(title=title, title_justify="left")
    sizes = [plan.memory[config.choices["strategy"]]["total"] for config, plan in planned.values() if plan.memory]
    unit = unit_of(max(sizes, default=0))
    for name in ("job", "strategy", "processes", "steps", "tokens", f"{unit} per process"):
        shape.add_column(name, overflow="fold", justify="left" if name in ("job", "strategy") else "right")
    if memory_gib is not None:
        shape.add_column("fits", overflow="fold")
    for name, (config, plan) in planned.items():
        strategy, about = config.choices["strategy"], "about " if plan.estimated else ""
        counted = plan.memory.get(strategy, {})
        size = f"{counted['total'] / UNITS[unit]:.2f}" if counted else ""
        fits = [fits_in_words(counted, memory_gib) if counted else ""] if memory_gib is not None else []
        steps, tokens = (f"{about}{number:,}" if number else "unknown" for number in (plan.steps, plan.tokens))
        shape.add_row(name, strategy, str(plan.world), steps, tokens, size, *fits)
    return shape
