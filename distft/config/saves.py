"""When checkpoints are written: by the clock, unless the user counts steps.

Every quarter of an hour is the default, since nobody knows before a run how long its steps take. Steps replace it where
they are given, and minutes replace an experiment's steps; both given on one command line are both in force.
"""

from collections.abc import Collection, Mapping
from typing import Any

from distft.config.tree import at

STEPS, MINUTES = "checkpoint.every_steps", "checkpoint.every_minutes"


def with_saves(
    values: Mapping[str, Any], typed: Collection[str], of_experiment: Collection[str], given: frozenset[str]
) -> tuple[dict[str, Any], frozenset[str]]:
    """Returns the values with the one way of the two set to null that the other replaces, and all keys that count as
    given.

    typed: keys of the command line. of_experiment: those that the experiment sets. given: both, and what they imply.
    """
    for keys in (typed, of_experiment):
        asked = [key for key in (STEPS, MINUTES) if key in keys and at(values, key) is not None]
        if len(asked) == 1:
            other = MINUTES if asked == [STEPS] else STEPS
            if other in typed or (keys is of_experiment and other in of_experiment):
                return dict(values), given
            group, _, name = other.partition(".")
            return {**values, group: {**values[group], name: None}}, given | {other}
        if asked:
            break
    return dict(values), given


def implied(given: Collection[str]) -> frozenset[str]:
    """Returns the keys with the other way to say when checkpoints are written where one is."""
    return frozenset(given) | ({STEPS, MINUTES} if {STEPS, MINUTES} & set(given) else frozenset())
