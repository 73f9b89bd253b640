"""Where a run is killed: moments inside a step, an evaluation or a save that the run really has."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distft.config import ConfigError
from distft.run import Plan
from distft.train.when import When

MOMENTS = {
    "accumulation": "before the last micro-batch's backward",
    "step": "after the update of the weights, before its row of metrics",
    "evaluation": "after the first of its forward passes",
    "save": "after all is written and before it counts, or where another rank than 0 opens its file",
}


@dataclass(frozen=True)
class Kill:
    """A rank ends by SIGKILL at `moment` of `step`."""

    moment: str
    step: int

    def __str__(self) -> str:
        return f"{self.moment} of step {self.step}"


def choose(
    moments: Sequence[str] | int | None, at: Sequence[int] | None, config: Mapping[str, Any], plan: Plan
) -> list[Kill]:
    """Returns the kills in the order of their steps; ConfigError for one that the run has no place for.

    moments: None for all that the run has, a number for so many at random, decided by the run's seed.
    """
    places = {moment: _steps(moment, config, plan) for moment in MOMENTS}
    if isinstance(moments, int):
        everywhere = [Kill(moment, step) for moment, steps in places.items() for step in steps]
        chosen = random.Random(config["seed"]).sample(everywhere, min(moments, len(everywhere)))
        return sorted(chosen, key=lambda kill: kill.step)
    moments = moments or [moment for moment in MOMENTS if places[moment]]
    if none := [moment for moment in moments if not places[moment]]:
        raise ConfigError(f"kills=[{moment}]: this run has no {moment}" for moment in none)
    return _spread(moments, places, plan.steps) if at is None else _given(moments, at, places)


def _steps(moment: str, config: Mapping[str, Any], plan: Plan) -> list[int]:
    """Returns the steps at which a run has such a moment."""
    if moment == "evaluation" and not plan.eval_rows:
        return []
    settings, last = config["eval"], plan.steps
    when = {
        "evaluation": When(settings["every_steps"], last, at_last=settings["at_ends"]),
        "save": When(config["checkpoint"]["every_steps"], last),
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
