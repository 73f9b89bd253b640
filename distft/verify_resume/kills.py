"""Where a run is killed: inside a step, an evaluation or a save; and the command line of `distft.verify_resume`."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distft.config import Config, ConfigError, compose, difference
from distft.config.command import keywords
from distft.config.errors import did_you_mean, nearest
from distft.paths import absolute, unused
from distft.run import Plan
from distft.train.early_stopping import When

MOMENTS = {
    "accumulation": "before the last micro-batch's backward",
    "step": "after the update of the weights, before its row of metrics",
    "evaluation": "after the first of its forward passes",
    "save": "after all is written and before it is committed, or where another rank than 0 opens its file",
}


@dataclass(frozen=True)
class Kill:
    """A rank ends by SIGKILL at `moment` of `step`."""

    moment: str
    step: int

    def __str__(self) -> str:
        return f"{self.moment} of step {self.step}"


def choose(moments: Sequence[str] | int | None, at: Sequence[int] | None, config: Config, plan: Plan) -> list[Kill]:
    """Returns the kills in the order of their steps; ConfigError for a moment or a step that the run does not have.

    moments: None: one of each that the run has; a number: so many random ones, drawn with the run's seed.
    """
    places = {moment: _steps(moment, config, plan) for moment in MOMENTS}
    if isinstance(moments, int):
        everywhere = [Kill(moment, step) for moment, steps in places.items() for step in steps]
        chosen = random.Random(config.seed).sample(everywhere, min(moments, len(everywhere)))
        return sorted(chosen, key=lambda kill: kill.step)
    moments = moments or [moment for moment in MOMENTS if places[moment]]
    if none := [moment for moment in moments if not places[moment]]:
        raise ConfigError(f"kills=[{moment}]: this run has no {moment}" for moment in none)
    return _spread(moments, places, plan.steps) if at is None else _given(moments, at, places)


def _steps(moment: str, config: Config, plan: Plan) -> list[int]:
    """Returns the steps at which a run has this moment."""
    if moment == "evaluation" and not plan.eval_rows:
        return []
    last = plan.steps
    when = {
        "evaluation": When(config.eval.every_steps, last, at_last=config.eval.at_ends),
        "save": When(config.checkpoint.every_steps, last),
    }.get(moment, When(1, last))
    return [step for step in range(1, last + 1) if when.due(step)]


def _spread(moments: Sequence[str], places: Mapping[str, Sequence[int]], steps: int) -> list[Kill]:
    wanted = [round((i + 1) * steps / (len(moments) + 1)) for i in range(len(moments))]
    kills = [
        Kill(moment, min(places[moment], key=lambda step: (abs(step - want), step)))
        for moment, want in zip(moments, wanted, strict=True)
    ]
    return sorted(kills, key=lambda kill: kill.step)


def _given(moments: Sequence[str], at: Sequence[int], places: Mapping[str, Sequence[int]]) -> list[Kill]:
    if len(at) != len(moments):
        raise ConfigError([f"at={_list(at)} has {len(at)} steps for {len(moments)} kills, {_list(moments)}"])
    errors = [
        f"at={_list(at)}: step {step} has no {moment}. "
        f"Try: {min(places[moment], key=lambda there: abs(there - step))}"  # used at once
        for moment, step in zip(moments, at, strict=True)
        if step not in places[moment]
    ]
    if list(at) != sorted(at):
        errors.append(f"at={_list(at)}: later kills come at later steps. Try: at={_list(sorted(at))}")
    if errors:
        raise ConfigError(errors)
    return [Kill(moment, step) for moment, step in zip(moments, at, strict=True)]


def _list(values: Sequence[Any]) -> str:
    return f"[{','.join(map(str, values))}]"


KEYS = {
    "kills": f"where: a list of {', '.join(MOMENTS)}, or a number of random ones; default: one of each",
    "at": "their steps, one for each kill; default: spread over the run",
    "then": "overrides from the first resume on, e.g. [strategy=zero2,launcher.processes_per_node=1]",
    "out": "folder for the runs; default: RUNS_DIR/verify-resume",
}
LAYOUT = ("strategy", "launcher", "train.micro_batch_size", "train.micro_batch_tokens", "data.packing")


@dataclass(frozen=True)
class Request:
    """What to run, where to kill it, and the config to resume with."""

    config: Config
    later: Config
    overrides: list[str]
    kills: list[str] | int | None
    at: list[int] | None
    out: Path

    @property
    def same_layout(self) -> bool:
        return self.config.values == self.later.values


def read_arguments(arguments: Sequence[str]) -> Request:
    """Returns the parsed command line; ConfigError with everything that is wrong with it."""
    mine = [text for text in arguments if text.partition("=")[0] in KEYS]
    overrides = [text for text in arguments if text not in mine]
    given = {key: _parsed(key, value) for key, value in keywords(mine, KEYS, required=()).items() if key != "out"}
    config = compose(overrides)
    later = compose([*overrides, *given["then"]]) if given.get("then") else config
    out = absolute(next((t.partition("=")[2] for t in mine if t.startswith("out=")), _default_out(config)))
    errors = [*_not_resumable(config), *_not_layout(config, later)]
    errors += [f"out={out}: exists already. Try: out={unused(out)}"] if out.exists() else []
    if errors:
        raise ConfigError(errors)
    return Request(config, later, overrides, given.get("kills"), given.get("at"), out)


def _parsed(key: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    many = value if isinstance(value, list) else [value]
    if key == "kills":
        if isinstance(value, int) and value > 0:
            return value
        unknown = [each for each in many if each not in MOMENTS]
        if unknown:
            meant = did_you_mean(nearest(str(unknown[0]), MOMENTS))
            raise ConfigError([f"kills={text}: is not a number of kills or a list of {', '.join(MOMENTS)}.{meant}"])
    elif key == "at" and not all(isinstance(each, int) and each > 0 for each in many):
        raise ConfigError([f"at={text}: is not a list of steps. Try: at=[2,4]"])
    elif key == "then" and not all(isinstance(each, str) for each in many):
        raise ConfigError([f"then={text}: is not a list of overrides. Try: then=[strategy=zero2]"])
    return many


def _not_resumable(config: Config) -> list[str]:
    settings = config.checkpoint
    errors = []
    if settings.resume != "auto":
        errors.append(f"checkpoint.resume={settings.resume}: the killed run resumes its own. Try: auto")
    if settings.every_steps is None:
        text = "the clock saves at other steps each time. Try: checkpoint.every_steps=2"
        errors.append(f"checkpoint.every_steps=null: {text}")
    return errors


def _not_layout(config: Config, later: Config) -> list[str]:
    return [
        f"then=: {change} is another run, not another layout of it. Try: {', '.join(LAYOUT)}"
        for change in difference(config.values, later.values)
        if not change.startswith(tuple(f"{key}{end}" for key in LAYOUT for end in (".", ":")))
    ]


def _default_out(config: Config) -> str:
    return str(unused(Path(config.runs_dir) / "verify-resume"))
