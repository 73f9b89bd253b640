"""One run from a command line to its exit code: compose, check, prepare, plan, freeze, submit, follow, export, report.

Trap: this process may wait for days on a login node, so it imports neither torch nor transformers;
what needs them runs as an own process that cannot outlive this one.
"""

import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_class
from rich.console import Console

from distft.config import Config, ConfigError, command, compose, difference
from distft.data.key import prepared_dir
from distft.launchers.contract import Launcher, Outcome
from distft.launchers.follow import follow
from distft.paths import absolute
from distft.plan import make_plan
from distft.run import FINISHED, RunFolder, write_json
from distft.runtime import stop
from distft.runtime.environment import describe, redact, secrets
from distft.runtime.lock import alone
from distft.runtime.logs import last_lines, redirect
from distft.runtime.parent import start_bound
from distft.trackers.contract import Guarded
from distft.trackers.terminal import Terminal, summary


def main(overrides: list[str]) -> int:
    """Returns the run's exit code: 0 done, 75 preempted (the same command continues it), 1 failed."""
    refuse_secrets(overrides)
    config = compose(overrides)
    launcher = make_part(config, "launcher")
    tracker = make_part(config, "tracker")
    run = RunFolder(run_dir(config))
    with ExitStack() as stack:
        if not stack.enter_context(alone(run.path / ".lock")):
            raise ConfigError(
                [f"name={run.path.name}: another launch of {run.path} is going on. Nearest: another name"]
            )
        known = run.config.is_file()
        if known:
            refuse_other_config(run, config)
        if not (known and run.read_status()["state"] in FINISHED):
            freeze(run, config, overrides)
            if not launcher.wait and go_on_in_background(run):
                return 0
            outcome = supervise(run, launcher, tracker)
            if outcome.state not in FINISHED:
                return report_end(run, outcome)
        return finish(run)


def run_dir(config: Config) -> Path:
    """Returns the run's folder; a run without a name gets a new one from model, data and time."""
    folder = absolute(config.values["runs_dir"])
    if config.values["name"] is None:
        name = f"{config.choices['model']}-{config.choices['data']}-{time.strftime('%Y%m%d-%H%M%S')}"
        others = len(list(folder.glob(f"{name}*")))
        config.values["name"] = f"{name}-{others + 1}" if others else name
    return folder / config.values["name"]


def make_part(config: Config, group: str) -> Any:
    """Returns the launcher or the tracker that the config names; a null `_target_` gives None."""
    settings = dict(config.values[group])
    target = settings.pop("_target_")
    if target is None and group == "launcher":
        raise ConfigError([f"launcher={config.choices['launcher']} cannot launch yet. Nearest: launcher=local"])
    try:
        return None if target is None else get_class(target)(**settings)
    except ValueError as error:
        raise ConfigError([str(error)]) from error


def refuse_secrets(overrides: list[str]) -> None:
    """Raises ConfigError when an override holds the value of a secret variable: it would be frozen into files."""
    for override in overrides:
        for name, value in secrets().items():
            if value in override:
                key = override.split("=")[0]
                rule = f"{key}: holds the secret of ${name}, and a run's config is kept. Leave it in ${name}"
                raise ConfigError([rule])


def refuse_other_config(run: RunFolder, config: Config) -> None:
    """Raises ConfigError with the difference unless `config` is the one this run was frozen with."""
    changes = difference(run.read_config(), config.values)
    if changes:
        first = f"name={run.path.name}: {run.path} was made with another config. Nearest: another name"
        raise ConfigError([first, *map(str, changes)])


def freeze(run: RunFolder, config: Config, overrides: list[str]) -> None:
    """Prepares the data where needed and writes what the run is and runs with; the attempt is counted up."""
    if prepared_dir(config.values) is None:
        run_command("prepare", *overrides)
    run.write_plan(make_plan(config))
    run.config.write_text(yaml.safe_dump(config.values, sort_keys=False, allow_unicode=True))
    run.command.write_text(redact(shlex.join(["python", "-m", "distft.launch", *overrides])) + "\n")
    write_json(run.environment, describe())
    stop.clear(run)
    attempt = run.read_status()["attempt"] + 1
    run.write_status(state="pending", attempt=attempt, exit_code=None, error=None)


def go_on_in_background(run: RunFolder) -> bool:
    """Splits off a process that owns the run from here on; returns True in the one that the user waits for."""
    child = os.fork()
    if child:
        print(f"{run.path} runs in the background as process {child}; `touch {run.stop}` saves and stops it")
        return True
    os.setsid()
    redirect(run.logs / "launch.log")
    return False


def supervise(run: RunFolder, launcher: Launcher, tracker: Any) -> Outcome:
    """Runs one attempt to its end, shown on the terminal and fed to the tracker."""
    console = Console(stderr=True)
    watchers = (Terminal(console), Guarded(tracker))
    attempt = run.read_status()["attempt"]
    [handle] = launcher.submit([run.path])
    for watcher in watchers:
        watcher.start(run)
    outcome = Outcome("failed")
    try:
        logs = [watcher.log for watcher in watchers]
        outcome = follow(run, handle, attempt, launcher.grace_seconds, logs, console.print)
    finally:
        for watcher in watchers:
            watcher.finish(outcome.state)
    return outcome


def report_end(run: RunFolder, outcome: Outcome) -> int:
    """Tells why a run is not done, the culprit last; returns its exit code."""
    if outcome.state == "preempted":
        print(f"{run.path} is saved and stopped. The same command with name={run.path.name} continues it.")
    error = outcome.error or {}
    for line in error.get("traceback", "").splitlines()[-12:]:
        print(f"  {line}", file=sys.stderr)
    if error:
        who = f"rank {error['rank']}" if error["rank"] is not None else "the run"
        print(f"{run.path.name} failed: {who} on {error['host']}: {error['type']}: {error['message']}", file=sys.stderr)
        print(f"  at {error['where'] or 'no line known'}\n  log: {error['log']}", file=sys.stderr)
    return outcome.exit_code


def finish(run: RunFolder) -> int:
    """Exports and reports a finished run where that has not been done, and prints its summary."""
    if not run.final.is_dir():
        run_command("export", f"run={run.path}", f"out={run.final}", log=run.logs / "export.log")
    run_command("report", f"run={run.path}", log=run.logs / "report.log")
    Console().print(summary(run))
    return 0


def run_command(name: str, *overrides: str, log: Path | None = None) -> None:
    """Runs another command of distft to its end; exits with its code when it failed."""
    if importlib.util.find_spec(f"distft.{name}") is None:
        print(f"distft.{name} is not there yet: skipped", file=sys.stderr)
        return
    output = log.open("w") if log else None
    process = start_bound(
        [sys.executable, "-m", f"distft.{name}", *overrides], stdout=output, stderr=subprocess.STDOUT if log else None
    )
    code = process.wait()
    if code:
        for line in last_lines(log, 20) if log else []:
            print(f"  {line}", file=sys.stderr)
        where = f", log: {log}" if log else ""
        print(f"distft.{name} ended with code {code}{where}", file=sys.stderr)
        sys.exit(code if code > 0 else 128 - code)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    command(main)
