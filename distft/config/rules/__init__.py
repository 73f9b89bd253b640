"""What does not go together: one table, rendered into docs/config.md and held against it by a test."""

from collections.abc import Collection, Iterator
from dataclasses import replace

from distft.config.rules import model, rows, run, update
from distft.config.rules.contract import Facts, Rule

RULES = tuple(
    value for module in (run, update, model, rows) for value in vars(module).values() if isinstance(value, Rule)
)


def broken_by_length(facts: Facts, steps: int) -> list[str]:
    """Returns what rules about train.max_steps say when the run's own steps, known from its rows, are put there."""
    values = {**facts.values, "train": {**facts.values["train"], "max_steps": steps}}
    known = replace(facts, values=values)
    return [message for rule in RULES if "train.max_steps" in rule.keys and (message := rule.message(known))]


def broken_rules(facts: Facts, wrong: Collection[str]) -> Iterator[str]:
    """Yields the message of every broken rule none of whose keys is in `wrong`."""
    for rule in RULES:
        if not set(rule.keys) & set(wrong):
            message = rule.message(facts)
            if message:
                yield message
