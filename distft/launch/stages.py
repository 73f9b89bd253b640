"""The stages of a launch before a run is submitted and after it has ended, shared by launch and sweep.

Trap: the calling process may wait for days on a login node, so it must not import torch or transformers;
programs that need them run as child processes that die with this one.
"""

import atexit
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from distft.config.errors import ConfigError
from distft.config.freeze import frozen_text, read_config
from distft.config.key import covers, leaves
from distft.config.parts import read_elsewhere
from distft.config.schema import Config, Export
from distft.config.targets import build
from distft.data.key import prepared_dir
from distft.generate.samples_file import before_and_after
from distft.goodput import note
from distft.launch.history import Own, archive_previous, check_plan, frozen_before, keep_frozen, own_of, resumed
from distft.launch.shrinking import size_text
from distft.launchers.contract import Handle, Launcher
from distft.launchers.slurm.job import find_job
from distft.machines import plugged_in, torch_build, wasted, without_driver
from distft.paths import absolute, why_not_writable
from distft.plan import make_plan
from distft.plan.fit import too_large
from distft.plan.labels import data_label, model_label
from distft.plan.make import check_base_model, is_auto, is_checked, model_notes
from distft.run import EXIT_WRONG_CONFIG, Plan, RunFolder, write_json
from distft.runtime import stop
from distft.runtime.disk import sync
from distft.runtime.environment import describe, has_secret, redact, secrets
from distft.runtime.errors import Failure
from distft.runtime.logs import last_lines, redirect
from distft.runtime.process import start_bound
from distft.trackers.contract import Results
from distft.trackers.terminal import screen

NOT_SHOWN = ("checkpoint.allow_change", "checkpoint.resume")  # they only select how to resume


def with_name(config: Config) -> tuple[RunFolder, Config]:
    """Returns the run's folder, and the config with its name: one without a name gets it from model, data and time."""
    folder = absolute(config.runs_dir)
    if config.name is None:
        config = config.changed({"name": _own_name(folder, default_name(config))})
    return RunFolder(folder / str(config.name)), config


def default_name(config: Config) -> str:
    """Returns model, data and time, which name a run that got no name."""
    model = model_label(config.model, config.choices["model"])
    return f"{model}-{data_label(config.data.train, config.choices['data'])}-{time.strftime('%Y%m%d-%H%M%S')}"


def _own_name(folder: Path, name: str) -> str:
    """Returns `name`, or `name-N`, after creating its folder, so that no other process has the same name.

    An empty folder is removed at exit.
    """
    for number in count(1):
        own = folder / (f"{name}-{number}" if number > 1 else name)
        try:
            own.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:
            break  # check_writable reports it
        atexit.register(_remove_if_empty, own, os.getpid())
        return own.name
    return name


def _remove_if_empty(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not in a fork that continues in the background
        with suppress(OSError):
            folder.rmdir()


def with_frozen_values(run: RunFolder, config: Config) -> tuple[Config, Own | None]:
    """Returns the config with the run's frozen values in place of changed defaults (printed) or of other paths to
    the same content; and the frozen inputs of the run."""
    config, kept = keep_frozen(run, config)
    for line in config.notes:
        screen(sys.stderr).print(line)
    for line in kept:
        screen(sys.stderr).print(f"kept: {line}")
    own = own_of(run, config)
    return (config.with_values(own.values) if own else config), own


def check_writable(folder: Path) -> None:
    """Raises ConfigError when no run folder can be created in `folder`."""
    if why := why_not_writable(folder):
        raise ConfigError([f"runs_dir={folder}: {why}. Try: runs_dir=DIR with a writable folder"])


def check_devices(config: Config) -> None:
    """Raises ConfigError when this machine has accelerators that torch is not built for: the run would use the CPU.
    Warns about accelerators without a driver."""
    if config.choices["launcher"] != "local":
        return
    if said := wasted(plugged_in(), torch_build()):
        raise ConfigError([f"launcher=local: {said}"])
    if said := without_driver():
        screen(sys.stderr).print(f"warning: {said}")


def make_part(config: Config, group: str) -> Any:
    """Returns the launcher or sweeper that the config names, None for a null `_target_`."""
    settings = dict(config.values[group])
    target = settings.pop("_target_")
    if target is None and group == "launcher":
        raise ConfigError([f"launcher={config.choices['launcher']} cannot launch yet. Try: launcher=local"])
    try:
        return None if target is None else build(target, settings, read_elsewhere(target))
    except ValueError as error:
        raise ConfigError([str(error)]) from error


def refuse_secrets(config: Config) -> None:
    """Raises ConfigError when the config contains the value of a secret variable: it would be stored in files."""
    text = frozen_text(config)
    found = [name for name, value in secrets().items() if value in text]
    rule = "the config contains its value and is stored in the run folder. Try: keep the secret in the environment"
    if found:
        raise ConfigError(f"${name}: {rule}" for name in found)
    shaped = [key for key, value in leaves(config.values) if has_secret(str(value))]
    if shaped:
        rule = "looks like a secret, and the config is stored in the run folder. Try: keep it in the environment"
        raise ConfigError(f"{key}: its value {rule}" for key in shaped)


def prepare(config: Config, overrides: Sequence[str], own: Own | None = None) -> None:
    """Runs `prepare` if it is needed; exits with the command's code when it fails."""
    if must_prepare(config, own):
        Command("prepare", *overrides).end()


def must_prepare(config: Config, own: Own | None = None) -> bool:
    """Returns whether the data is not prepared or the model not checked yet.

    own: the frozen inputs of the run. ConfigError when they are lost and cannot be made again, or when the model's
    files are invalid or the model was rejected before.
    """
    if own and own.wrong:
        raise ConfigError([f"{own.wrong}. Try: cache_dir=where they are, the files as they were, or another name"])
    if own is None:
        check_base_model(config)
    return own.is_gone if own else prepared_dir(config) is None or not is_checked(config)


def plan_run(run: RunFolder, config: Config, own: Own | None = None) -> Plan:
    """Returns the plan of the run from its checkpoint on; ConfigError when it cannot resume from there."""
    manifest = resumed(run, config)
    if own and own.is_gone:  # until it was prepared
        own = own_of(run, config.with_values(own.asked))
    for line in own.lines if own else ():
        screen(sys.stderr).print(line)
    plan = make_plan(config, manifest, own.plan if own else None)
    check_plan(plan, run, config, manifest)
    check_fits(config, plan)
    if is_auto(config):
        screen(sys.stderr).print(f"micro-batch: {size_text(plan)}, the most that fits")
    return plan


def check_fits(config: Config, plan: Plan) -> None:
    """Raises ConfigError where the state alone, which is counted exactly, exceeds the memory of this machine."""
    strategy = config.choices["strategy"]
    counted = plan.memory.get(strategy)
    if counted is None or plan.nodes > 1 or config.choices["launcher"] != "local":
        return
    if lacks := too_large(counted["total"] - counted["host"], plan.processes_per_node):
        rule = f"strategy={strategy}: {lacks}. Try: tuning=lora, or distft plan search=true memory_gib=..."
        raise ConfigError([f"{rule} for settings that fit"])


def prepare_and_plan(run: RunFolder, config: Config, overrides: Sequence[str], own: Own | None = None) -> Plan:
    """Prepares and plans the run, and prints notes about the model."""
    prepare(config, overrides, own)
    plan = plan_run(run, config, own)
    for line in [] if own else model_notes(config):
        screen(sys.stderr).print(line, markup=False)
    return plan


def launch_command(overrides: Sequence[str]) -> str:
    """Returns the command line that launches a run with these overrides, secrets blanked."""
    return redact(shlex.join(["python", "-m", "distft.launch", *overrides]))


def freeze(run: RunFolder, config: Config, plan: Plan, overrides: Sequence[str]) -> None:
    """Writes config, plan, command and environment of the next attempt; they do not change afterwards."""
    text = frozen_text(config)
    before = frozen_before(run, config)
    changes = before.in_words(config) if before else []
    changed = [line for line in changes if not covers(NOT_SHOWN, line.partition(":")[0])]
    for line in changed:
        screen(sys.stderr).print(f"changed: {line}")
    attempt = run.read_status()["attempt"] + 1
    archive_previous(run, text)
    run.write_plan(plan)
    run.config.write_text(text)
    about = f"attempt {attempt}, {time.strftime('%Y-%m-%d %H:%M:%S')}{': ' if changed else ''}{', '.join(changed)}"
    run.add_command(launch_command(overrides), about)
    write_json(run.environment, describe())
    for file in (run.config, run.plan, run.path):  # a checkpoint needs them
        sync(file)
    stop.clear(run)
    run.write_status(state="pending", attempt=attempt, exit_code=None, error=None)
    note(run, "submitted", attempt, changed=changed)


def find(launcher: Launcher, run: RunFolder) -> Handle | None:
    """Returns the handle of a run that is already running; ConfigError when it runs elsewhere or its machine is lost;
    Unavailable when that is unknown."""
    try:
        handle = launcher.find(run.path)
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    is_open = run.read_status()["exit_code"] is None and run.job.is_file()
    if handle is None and not launcher.outlives_launch and is_open and (job := find_job(run)):
        rule = f"job {job} of SLURM owns {run.path}. Try: launcher=slurm, which follows it"
        raise ConfigError([f"{rule}, or scancel {job} first"])
    return handle


def submit(launcher: Launcher, runs: Sequence[RunFolder]) -> list[Handle]:
    """Submits frozen runs; when the launcher refuses them, marks them as failed and raises ConfigError."""
    try:
        return list(launcher.submit([run.path for run in runs]))
    except ValueError as error:
        failure = asdict(Failure.of_run(str(error)))
        for run in runs:
            run.write_status(state="failed", exit_code=EXIT_WRONG_CONFIG, error=failure)
        raise ConfigError([str(error)]) from error


def go_on_in_background(folder: Path, log: Path, to_stop: str) -> bool:
    """Forks a background process that owns the folder; returns True in the foreground process.

    to_stop: the command that makes it save and stop, with PID for its process id.
    """
    child = os.fork()
    if child:
        command = to_stop.replace("PID", str(child))
        print(f"{folder} runs in the background as process {child}. Save and stop it: {command}")
        return True
    os.setsid()
    redirect(log)
    return False


def check_exported(run: RunFolder, config: Config) -> None:
    """Raises ConfigError when final/ exists and `config` requests a different one: it is never overwritten."""
    if not run.final.is_dir() or not any(covers(["export"], key) for key in config.given):
        return
    for key in ("at", "dtype", "format"):
        before, now = getattr(read_config(run).export, key), getattr(config.export, key)
        if before != now:
            there = f"export.{key}={now}: {run.final} was exported with export.{key}={before}"
            again = shlex.join(["python", "-m", "distft.export", f"run={run.path}", "out=DIR", f"{key}={now}"])
            raise ConfigError([f"{there}. Try: {again}"])


def write_results(run: RunFolder, *, export: Export) -> bool:
    """Exports a finished run where that is wanted, and reports it, where that has not been done; both at once.

    export: the config's section. Returns whether all succeeded; a failed export does not change the run's state.
    """
    command = ["export", f"run={run.path}", f"out={run.final}"]
    command += [f"{key}={getattr(export, key)}" for key in ("at", "dtype", "format")]
    started: list[Command] = []
    if export.enabled and not run.final.is_dir():
        started.append(Command(*command, log=run.logs / "export.log"))
    if not (run.path / "report.html").is_file():
        started.append(Command("report", f"run={run.path}", log=run.logs / "report.log"))
    console, done = screen(sys.stderr), True
    for each in started:
        code = each.wait()
        done = done and not code
        said = last_lines(each.log, 20) if each.log else []
        if code:
            cause = next((line.strip() for line in reversed(said) if line.strip()), f"it ended with code {code}")
            again = shlex.join(["python", "-m", f"distft.{each.name}", *each.overrides])
            console.print(f"{run.path.name}: {each.name} failed: {cause}\nTry: {again}")
        else:
            for line in said:
                if line.startswith("warning: "):
                    console.print(line)
    return done


def results_of(run: RunFolder) -> Results:
    """Returns what a finished run leaves for its trackers."""
    files = [run.path / "report.html", *sorted(run.eval.rglob("metrics.json"))]
    samples = [asdict(sample) for sample in before_and_after(run)]
    return Results(samples, [file for file in files if file.is_file()])


class Command:
    """A running distft command."""

    def __init__(self, name: str, *overrides: str, log: Path | None = None) -> None:
        self.name, self.overrides, self.log = name, overrides, log
        output = log.open("w") if log else None
        self.process = start_bound(
            [sys.executable, "-m", f"distft.{name}", *overrides],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if log else None,
            start_new_session=True,  # Ctrl-C ends this process, and the child dies with it
        )

    def wait(self) -> int:
        """Waits for it and returns its exit code."""
        with screen(sys.stderr).status(f"{self.name} ...") if self.log else nullcontext():
            return self.process.wait()

    def end(self) -> None:
        """Waits for it; exits with its code when it failed, which ends the other children too."""
        console, code = screen(sys.stderr), self.wait()
        if code:
            console.print("\n".join(last_lines(self.log, 20)) if self.log else "")
            console.print(f"distft.{self.name} failed with code {code}" + (f", log: {self.log}" if self.log else ""))
            sys.exit(code if code > 0 else 1)
