"""What a rule is: a function of the facts with its row of the compatibility table above it.

`given` holds the keys that the user set, here or in an experiment: what was set and has no effect is refused too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from distft.config.key import at, covers
from distft.machines import node_range, processes_per_node


@dataclass(frozen=True)
class Facts:
    """What rules look at: the values, the chosen words, and which keys the user gave."""

    values: Mapping[str, Any]
    choices: Mapping[str, str]
    given: frozenset[str]
    sweep: bool = False  # the command line is a sweep's

    def __getitem__(self, path: str) -> Any:
        return at(self.values, path)

    def gave(self, *paths: str) -> str | None:
        """Returns the first of the keys, or of keys below them, that the user gave."""
        found = (key for path in paths for key in sorted(self.given) if covers([path], key))
        return next(found, None)

    @cached_property
    def processes_per_node(self) -> int:
        return processes_per_node(self["launcher"])

    @property
    def nodes(self) -> int:
        """The most that it asks for."""
        return node_range(self["launcher.nodes"] or 1)[1]

    @property
    def world(self) -> int:
        return self.nodes * self.processes_per_node


@dataclass(frozen=True)
class Rule:
    """One row of the table: the keys it is about, what is refused and why, and the check that gives the message."""

    name: str
    keys: tuple[str, ...]  # it is looked at only when all of these have values that fit
    refused: str
    because: str
    message: Callable[[Facts], str | None]


def rule(keys: tuple[str, ...], refused: str, because: str) -> Callable[[Callable[[Facts], str | None]], Rule]:
    """Makes a Rule of a function that returns the message of a broken rule."""
    return lambda check: Rule(check.__name__, keys, refused, because, check)
