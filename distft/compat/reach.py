"""What distft reaches in a library's private or young parts, and which keywords a function knows.

Trap: a checkout that is only on PYTHONPATH has no metadata, so distft's own version is read from its code.
"""

import importlib.metadata
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import distft


@dataclass(frozen=True)
class Reach:
    """One function, class or attribute of a library, by its dotted name from the top of the package."""

    name: str
    seen: str  # the versions that it was read and run with
    why: str
    takes: tuple[str, ...] = ()  # parameters that are passed by name, or that a method here overrides
    younger: tuple[str, ...] = ()  # parameters that the floor does not know; passed by `known` alone


def known(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Returns those of the options that `function` has a parameter for; for keywords that came after the floor."""
    return {name: value for name, value in options.items() if name in parameters(function)}


@cache
def parameters(function: Callable[..., Any]) -> frozenset[str]:
    """Returns the names of a function's parameters, of a class those of its constructor."""
    return frozenset(inspect.signature(function).parameters)


def version_of(name: str) -> str | None:
    """Returns the version of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return distft.__version__ if name == "distft" else None
