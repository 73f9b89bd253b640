"""Which key wins where two say the same thing in two ways: one table.

A default never cuts what somebody requested. Whoever sets a key is ranked: default, experiment, own file, command line.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from distft.config.key import MISSING, at

DEFAULT, EXPERIMENT, FILE, COMMAND_LINE = range(4)  # who says a key, the strongest last
ANY, KEEP = object(), object()


@dataclass(frozen=True)
class Wins:
    """One row: `key`, said with a value, takes the place of `over` where a weaker hand says that."""

    key: str
    over: str
    becomes: Any = KEEP  # the value of `over` then; KEEP: it stays and has no effect
    value: Any = ANY  # of `key`, that the row is about; ANY: each but null
    together: bool = False  # both may be said, in a file or on the command line: the first that is reached counts


STEPS, MINUTES = "checkpoint.every_steps", "checkpoint.every_minutes"
PACKING, ROWS, TOKENS = "data.packing", "train.micro_batch_size", "train.micro_batch_tokens"
WINS = (
    Wins("train.max_steps", "train.epochs", None, together=True),
    Wins("train.epochs", "train.max_steps", None, together=True),
    Wins("train.global_batch_tokens", "train.global_batch_size"),
    Wins("train.global_batch_size", "train.global_batch_tokens", None),
    Wins(STEPS, MINUTES, None, together=True),
    Wins(MINUTES, STEPS, None, together=True),
    Wins(TOKENS, PACKING, True),
    Wins(TOKENS, ROWS),
    Wins(ROWS, PACKING, False),
    Wins(ROWS, TOKENS, None),
    Wins(PACKING, ROWS, value=True),
    Wins(PACKING, TOKENS, None, value=False),
)


@dataclass(frozen=True)
class Settled:
    """A config's values once every key that a stronger one overrides has given way."""

    values: dict[str, Any]
    given: frozenset[str]  # keys that somebody said and that count, and those that follow from them
    gave_way: dict[str, str]  # key -> the stronger key that overrides it


def settle(values: Mapping[str, Any], said: Mapping[str, int]) -> Settled:
    """Returns the values with the table applied; two keys of equal rank both stay, and rules refuse what clashes.

    said: the rank of whoever says each key; keys that are not in it are defaults.
    """
    tree, ranks, gave_way = dict(values), dict(said), dict[str, str]()
    for rank in (COMMAND_LINE, FILE, EXPERIMENT):
        for row in WINS:
            if ranks.get(row.key) == rank and _says(row, at(tree, row.key)) and _is_weaker(row, ranks, rank):
                if row.becomes is not KEEP and at(tree, row.over, MISSING) != row.becomes:
                    tree = with_value(tree, row.over, row.becomes)
                    gave_way[row.over] = row.key
                ranks.pop(row.over, None)
                if row.becomes is not None and row.becomes is not KEEP:
                    ranks[row.over] = rank  # it is said by saying `key`
    return Settled(tree, frozenset(ranks), gave_way)


def implied(given: Collection[str]) -> frozenset[str]:
    """Returns the keys with data.packing among them where a size of forwards is."""
    return frozenset(given) | ({PACKING} if {ROWS, TOKENS} & set(given) else frozenset())


def with_value(values: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Returns the tree with another value at a dotted key; `values` stays as it is."""
    group, _, rest = key.partition(".")
    return {**values, group: with_value(values[group], rest, value) if rest else value}


def _says(row: Wins, value: Any) -> bool:
    return value not in (None, MISSING) if row.value is ANY else value is row.value


def _is_weaker(row: Wins, ranks: Mapping[str, int], rank: int) -> bool:
    other = ranks.get(row.over, DEFAULT)
    return min(other, FILE) < min(rank, FILE) if row.together else other < rank
