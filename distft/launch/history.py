"""What a run was before this launch: which config and checkpoint it goes on from, and what is kept of them.

A checkpoint that `checkpoint.resume` names by its path may be of another run: its config is the one to go on from.
"""

import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from distft.checkpoint.choose import candidates
from distft.checkpoint.format import Damaged, read_manifest
from distft.config import Config, ConfigError
from distft.config.compose import Groups
from distft.config.freeze import Frozen, allowing, chosen_words, difference, keys_said, meanings, parse_config, refusal
from distft.config.key import covers
from distft.config.overrides import WrongOverride, long_form, split
from distft.config.precedence import implied
from distft.config.rules import broken_rules
from distft.config.rules.contract import Facts
from distft.launch.frozen import Own, find_own
from distft.paths import absolute, conf_dir
from distft.run import FINISHED, Plan, RunFolder

Manifest = Mapping[str, Any]
OF_THE_LAUNCH = ("tracker", "launcher.wait", "launcher.grace_seconds")  # what a run under way knows nothing of


def keep_frozen(run: RunFolder, config: Config, *, sweep: bool = False) -> tuple[Config, list[str]]:
    """Returns the config with the run's frozen values where a default has changed since, and a line for each of them.

    ConfigError when what is asked for now does not go with one of them. sweep: the run is a job of one.
    """
    before = frozen_before(run, config)
    values, lines = before.kept_by(config) if before else ({}, [])
    if not lines:
        return config, []
    if wrong := list(broken_rules(Facts(values, config.choices, config.given, sweep), ())):
        kept = f"name={run.path.name}: {run.path} keeps what it was frozen with. Try: type the value that is to change"
        raise ConfigError([*wrong, "\n    ".join([kept, *lines])])
    return config.with_values(values), lines


def check_config(run: RunFolder, config: Config) -> None:
    """Raises ConfigError with the difference when the run would go on with another meaning that is not allowed."""
    if (run.path / "sweep_status.json").is_file():
        raise ConfigError([f"name={run.path.name}: {run.path} holds a sweep. Try: another name, or -m"])
    before, found = frozen_before(run, config), run_before(run, config)
    what = f"name={run.path.name}: {run.path}"
    if found and found != run:
        what = f"checkpoint.resume={config.values['checkpoint']['resume']}: it is of {found.path}, which"
    if before is None:
        return
    if reason := refusal(before.aligned(config), config.values, what, before.in_words(config), config.gave_way):
        raise ConfigError([reason])


def check_followed(run: RunFolder, config: Config, name: str) -> None:
    """Raises ConfigError when `name`, which runs the run already, does so with another config than this one."""
    before = frozen_before(run, config)
    changes = before.in_words(config) if before else difference({}, config.values)
    others = [line for line in changes if not covers(OF_THE_LAUNCH, line.partition(":")[0])]
    if others:
        first = f"name={run.path.name}: {name} runs it with another config. Try: another name, or touch {run.stop}"
        raise ConfigError(["\n    ".join([first, *others])])


def config_before(run: RunFolder, config: Config) -> dict[str, Any] | None:
    """Returns the values that the run goes on from, in the keys that this version has."""
    before = frozen_before(run, config)
    return before.aligned(config) if before else None


def run_before(run: RunFolder, config: Config) -> RunFolder | None:
    """Returns the run that this one goes on from: itself, else the one whose checkpoint it is to resume."""
    resume = config.checkpoint.resume
    runs = [run]
    if resume not in ("auto", "never"):
        runs.append(RunFolder(absolute(resume).parents[1]))
    return next((each for each in runs if each.config.is_file()), None)


def own_of(run: RunFolder, config: Config) -> Own | None:
    """Returns the rows and the model that the run goes on with, where it has its own and is asked for no others."""
    found, before = run_before(run, config), config_before(run, config)
    return find_own(found, before, config.values) if found and before else None


def frozen_before(run: RunFolder, config: Config) -> Frozen | None:
    """Returns the config that the run goes on from."""
    found = run_before(run, config)
    if found is None:
        return None
    text = found.config.read_text()
    words, said = chosen_words(text), keys_said(text)
    return Frozen(parse_config(text).values, words, said if said is not None else _given(found, words))


def _given(run: RunFolder, words: Mapping[str, str]) -> frozenset[str] | None:
    """Returns the keys that the run's command line and its experiment set; None when its command is not there."""
    try:
        overrides = [split(text) for text in run.read_commands()[-1][3:]]  # after python -m distft.launch
        groups = Groups(conf_dir())
        experiment = groups.keys_of_experiment(words.get("experiment"))
    except (OSError, ValueError, IndexError, WrongOverride):
        return None
    return implied({long_form(each).key for each in overrides if not groups.has(each)} | experiment)


def is_done(run: RunFolder, config: Config) -> bool:
    """Returns whether the run has come to its end, and the config asks for nothing more."""
    finished = run.read_status()["state"] in FINISHED
    return finished and not meanings(config_before(run, config) or {}, config.values)


def resumed(run: RunFolder, config: Config) -> Manifest | None:
    """Returns the manifest of the checkpoint to go on from; ConfigError when the one that is named has none."""
    resume = config.checkpoint.resume
    for folder in candidates(run.checkpoints, resume):
        try:
            return read_manifest(folder)
        except Damaged as error:
            if folder == Path(resume):
                there = next(iter(candidates(run.checkpoints, "auto")), "auto")
                raise ConfigError([f"checkpoint.resume={resume}: {error}. Try: {there}"]) from error
    return None


def check_plan(plan: Plan, run: RunFolder, config: Config, manifest: Manifest | None) -> None:
    """Raises ConfigError when the plan reads other data than the checkpoint's, or ends before it."""
    if manifest is None:
        return
    which, done = f"name={run.path.name}: {run.path}", manifest["step"]
    check_model(plan, run, config, manifest)
    allowed, before, now = config.checkpoint.allow_change, manifest["reads"]["data"], plan.reads["data"]
    if before != now and not any(each.partition(".")[0] in ("data", "model") for each in allowed):
        first = f"{which} would go on with other rows: a file, the tokenizer or the template differs"
        raise ConfigError([f"{first}. Try: another name, or {allowing(allowed, ['data'])}"])
    end = min(plan.steps, config.train.max_steps or plan.steps)
    if end < done:
        raise ConfigError([f"{which} has done {done} steps, this config ends after {end}. Try: {done}"])


def check_model(plan: Plan, run: RunFolder, config: Config, manifest: Manifest) -> None:
    """Raises ConfigError when a changed model or tuning does not train what the checkpoint holds: no rank could load
    it. Where neither has changed nothing is counted: the plan's numbers are not needed to be exact."""
    changed = meanings(config_before(run, config) or {}, config.values)
    trained = plan.parameters if plan.adapters is None else plan.adapters
    shapes = manifest.get("tensors", {}).get("parameter", {})
    holds = sum(prod(shape) for shape in shapes.values())
    if holds == trained or not trained or not holds or not any(covers(("model", "tuning"), key) for key in changed):
        return
    found = run_before(run, config) or run
    first = f"name={run.path.name}: this config trains {trained:,} parameters, the checkpoint of {found.path} holds"
    start = f"Try: another name, and to start from its result model.path={found.final}"
    raise ConfigError([f"{first} {holds:,}: a run goes on with its model and its tuning alone. {start}"])


def archive_previous(run: RunFolder, text: str) -> None:
    """Keeps what a run that goes on with the config `text` was: its config, and the result of one that had ended."""
    status = run.read_status()
    if run.config.is_file() and run.config.read_text() != text:
        os.replace(run.config, run.path / f"config.attempt-{status['attempt']}.yaml")
    if status["state"] in FINISHED:
        for result in (run.final, run.path / "report.html"):
            if result.exists():
                os.replace(result, result.with_name(f"{result.stem}-step-{status['step']}{result.suffix}"))
