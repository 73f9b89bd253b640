"""Which code a frozen config may name: a run folder may come from anybody."""

from collections.abc import Iterator, Mapping
from typing import Any

from distft.config.targets import TRUSTED


def check_trusted(config: Mapping[str, Any]) -> None:
    """Raises ValueError when a `_target_` anywhere in the config is not of a prefix that code is run from."""
    prefixes = (*TRUSTED, *(f"{str(prefix).rstrip('.')}." for prefix in config.get("trust") or ()))
    for path, target in _targets(config, ""):
        if target is not None and not str(target).startswith(prefixes):
            raise ValueError(f"{path}={target}: code is run from {', '.join(prefixes)} only")


def _targets(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            below = f"{path}.{key}" if path else str(key)
            if key == "_target_":
                yield below, inner
            else:
                yield from _targets(inner, below)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _targets(inner, f"{path}[{i}]")
