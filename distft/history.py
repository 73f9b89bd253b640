"""What a run was before this launch: which config and checkpoint it goes on from, and what is kept of them.

A checkpoint that `checkpoint.resume` names by its path may be of another run: its config is the one to go on from.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from distft.checkpoint.choose import candidates
from distft.checkpoint.manifest import Damaged, read_manifest
from distft.config import Config, ConfigError
from distft.config.change import allowing, meanings, refusal
from distft.config.freeze import difference
from distft.config.tree import covers
from distft.paths import absolute
from distft.run import FINISHED, Plan, RunFolder

Manifest = Mapping[str, Any]
OF_THE_LAUNCH = ("tracker", "launcher.wait", "launcher.grace_seconds")  # what a run under way knows nothing of


def check_config(run: RunFolder, config: Config) -> None:
    """Raises ConfigError with the difference when the run would go on with another meaning that is not allowed."""
    if (run.path / "sweep_status.json").is_file():
        raise ConfigError([f"name={run.path.name}: {run.path} holds a sweep. Nearest: another name, or -m"])
    before = config_before(run, config)
    reason = refusal(before, config.values, f"name={run.path.name}: {run.path}") if before else None
    if reason:
        raise ConfigError([reason])


def check_followed(run: RunFolder, config: Config, name: str) -> None:
    """Raises ConfigError when `name`, which runs the run already, does so with another config than this one."""
    changes = difference(run.read_config(), config.values)
    others = [line for line in changes if not covers(OF_THE_LAUNCH, line.partition(":")[0])]
    if others:
        first = f"name={run.path.name}: {name} runs it with another config. Nearest: another name, or touch {run.stop}"
        raise ConfigError(["\n    ".join([first, *others])])


def config_before(run: RunFolder, config: Config) -> dict[str, Any] | None:
    """Returns the config that the run goes on from: its own, else that of the run whose checkpoint it is to resume."""
    resume = config.values["checkpoint"]["resume"]
    files = [run.config]
    if resume not in ("auto", "never"):
        files.append(absolute(resume).parents[1] / run.config.name)
    file = next((file for file in files if file.is_file()), None)
    return yaml.safe_load(file.read_text()) if file else None


def is_done(run: RunFolder, config: Config) -> bool:
    """Tells whether the run has come to its end, and the config asks for nothing more."""
    finished = run.read_status()["state"] in FINISHED
    return finished and not meanings(run.read_config(), config.values)


def resumed(run: RunFolder, config: Config) -> Manifest | None:
    """Returns the manifest of the checkpoint to go on from; ConfigError when the one that is named has none."""
    resume = config.values["checkpoint"]["resume"]
    for folder in candidates(run.checkpoints, resume):
        try:
            return read_manifest(folder)
        except Damaged as error:
            if folder == Path(resume):
                there = next(iter(candidates(run.checkpoints, "auto")), "auto")
                raise ConfigError([f"checkpoint.resume={resume}: {error}. Nearest: {there}"]) from error
    return None


def check_plan(plan: Plan, run: RunFolder, config: Config, manifest: Manifest | None) -> None:
    """Raises ConfigError when the plan reads other data than the checkpoint's, or ends before it."""
    if manifest is None:
        return
    which, done = f"name={run.path.name}: {run.path}", manifest["step"]
    allowed, before, now = config.values["checkpoint"]["allow_change"], manifest["reads"]["data"], plan.reads["data"]
    if before != now and not any(each.partition(".")[0] in ("data", "model") for each in allowed):
        first = f"{which} would go on with other rows: a file, the tokenizer or the template differs"
        raise ConfigError([f"{first}. Nearest: another name, or {allowing(allowed, ['data'])}"])
    end = min(plan.steps, config.values["train"]["max_steps"] or plan.steps)
    if end < done:
        raise ConfigError([f"{which} has done {done} steps, this config ends after {end}. Nearest: {done}"])


def set_aside(run: RunFolder, text: str) -> None:
    """Keeps what a run that goes on with the config `text` was: its config, and the result of one that had ended."""
    status = run.read_status()
    if run.config.is_file() and run.config.read_text() != text:
        os.replace(run.config, run.path / f"config.attempt-{status['attempt']}.yaml")
    if status["state"] in FINISHED:
        for result in (run.final, run.path / "report.html"):
            if result.exists():
                os.replace(result, result.with_name(f"{result.stem}-step-{status['step']}{result.suffix}"))
