"""Nested dicts seen as dotted keys."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

MISSING = "???"  # how a YAML says that the user has to give a value


def leaves(tree: Mapping[str, Any], whole: Collection[str] = (), prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted key and value of everything that is no mapping; mappings named in `whole` are values."""
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and path not in whole:
            yield from leaves(value, whole, f"{path}.")
        else:
            yield path, value


def at(tree: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """Returns what stands at a dotted key."""
    node: Any = tree
    for name in path.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return default
        node = node[name]
    return node


def covers(groups: Iterable[str], key: str) -> bool:
    """Tells whether `key` is one of `groups` or stands in one of them."""
    return any(key == group or key.startswith(f"{group}.") for group in groups)
