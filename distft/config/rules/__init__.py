"""What does not go together: one table, rendered into docs/config.md and held against it by a test."""

from collections.abc import Collection, Iterator

from distft.config.rules import batch, machine, model, run, sweep, update
from distft.config.rules.contract import Facts, Rule

RULES = tuple(
    value
    for module in (run, batch, machine, model, update, sweep)
    for value in vars(module).values()
    if isinstance(value, Rule)
)


def broken_rules(facts: Facts, wrong: Collection[str], *, to_run: bool) -> Iterator[str]:
    """Yields the message of every broken rule none of whose keys is in `wrong`."""
    for rule in RULES:
        if (to_run or not rule.to_run) and not set(rule.keys) & set(wrong):
            message = rule.message(facts)
            if message:
                yield message
