"""What does not go together: one table, rendered into docs/config.md and held against it by a test.

A rule is looked at only when all its keys have values of the right type.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from distft.config.accelerators import num_accelerators
from distft.config.tree import at


@dataclass(frozen=True)
class Facts:
    """What rules look at: the values, the chosen words, and which keys the user gave."""

    values: Mapping[str, Any]
    choices: Mapping[str, str]
    given: frozenset[str]

    def __getitem__(self, path: str) -> Any:
        return at(self.values, path)

    @cached_property
    def processes_per_node(self) -> int:
        asked = self["launcher.processes_per_node"]
        return (num_accelerators() or 1) if asked == "auto" else asked

    @property
    def world(self) -> int:
        return self["launcher.nodes"] * self.processes_per_node


@dataclass(frozen=True)
class Rule:
    """One row of the table: the keys it is about, what is refused and why, and the check that gives the message."""

    name: str
    keys: tuple[str, ...]
    refused: str
    because: str
    message: Callable[[Facts], str | None]
    to_run: bool = False  # planning is fine, launching is not


def broken_rules(facts: Facts, wrong: Collection[str], *, to_run: bool) -> Iterator[str]:
    """Yields the message of every broken rule none of whose keys is in `wrong`."""
    for rule in RULES:
        if (to_run or not rule.to_run) and not set(rule.keys) & set(wrong):
            message = rule.message(facts)
            if message:
                yield message


def _global_batch(facts: Facts) -> str | None:
    size, micro, world = facts["train.global_batch_size"], facts["train.micro_batch_size"], facts.world
    if size is None or size % (micro * world) == 0:
        return None
    unit = micro * world
    below, above = size // unit * unit, -(-size // unit) * unit
    near = f"{below} or {above}" if below else str(above)
    processes = f"{world} process{'es' if world > 1 else ''}"
    return (
        f"train.global_batch_size={size} is not a multiple of {unit} "
        f"(= {processes} x train.micro_batch_size={micro}). Nearest: {near}"
    )


RULES = (
    Rule(
        "global-batch",
        ("train.global_batch_size", "train.micro_batch_size", "launcher.nodes", "launcher.processes_per_node"),
        "a global batch that is no whole number of micro-batches on every process",
        "accumulation = global / (micro x processes)",
        _global_batch,
    ),
)
