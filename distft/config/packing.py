"""Whether forwards are counted in tokens or in rows, where the user says it by how large they are.

Tokens are the default, since the memory of a forward then does not depend on which rows meet in it. Rows per forward
turn packing off, tokens per forward turn it on; the command line wins over an experiment.
"""

from collections.abc import Collection, Mapping
from typing import Any

from distft.config.tree import at

PACKING, ROWS, TOKENS = "data.packing", "train.micro_batch_size", "train.micro_batch_tokens"


def with_packing(
    values: Mapping[str, Any], typed: Collection[str], of_experiment: Collection[str]
) -> tuple[dict[str, Any], frozenset[str]]:
    """Returns the values with data.packing as the given keys imply it, and all keys that count as given.

    typed: keys of the command line. of_experiment: those that the experiment sets.
    Both sizes typed, or a size beside the other's data.packing, stay as they are: rules refuse them.
    """
    given = frozenset(typed) | frozenset(of_experiment)
    asked = _asked(values, typed)
    if asked is not None:
        other = ROWS if asked else TOKENS
        if other not in typed:  # an experiment's, which the command line overrules
            given -= {other}
            values = values if asked else _changed(values, TOKENS, None)
    else:
        asked = _asked(values, of_experiment)
    if asked is None:
        return dict(values), given
    return _changed(values, PACKING, asked), given | {PACKING}


def implied(given: Collection[str]) -> frozenset[str]:
    """Returns the keys with data.packing among them where a size of forwards is."""
    return frozenset(given) | ({PACKING} if {ROWS, TOKENS} & set(given) else frozenset())


def _asked(values: Mapping[str, Any], given: Collection[str]) -> Any:
    """Returns what these keys say of data.packing; None when they say nothing."""
    if PACKING in given:
        return at(values, PACKING)
    if TOKENS in given and at(values, TOKENS) is not None:
        return True
    return False if ROWS in given else None


def _changed(values: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    group, _, name = key.partition(".")
    return {**values, group: {**values[group], name: value}}
