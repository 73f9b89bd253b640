"""Reach: a record of one private or recent library API, and helpers for keywords and versions.

Trap: a checkout that is only on PYTHONPATH has no metadata, so distft's own version is read from its code.
"""

import importlib.metadata
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

Keywords = dict[str, Any]  # of a call, each with a type of its own
# The package is there before its modules are, and imports its API on use: an import here would be a circle.
OWN_VERSION: str = sys.modules["distft"].__version__


@dataclass(frozen=True)
class Reach:
    """One function, class or attribute of a library, by its dotted name from the top of the package."""

    name: str
    seen: str  # the versions that it was read and run with
    why: str
    takes: tuple[str, ...] = ()  # parameters that are passed by name, or that a method here overrides
    younger: tuple[str, ...] = ()  # parameters that the floor does not know; passed by `known` alone
    holds: tuple[str, ...] = ()  # attributes that its module sets on live objects, and that are read or set here


def known(function: Callable[..., Any], **options: Any) -> Keywords:
    """Returns the options that `function` has a parameter for; for keywords newer than the floor."""
    return {name: value for name, value in options.items() if name in parameters(function)}


@cache
def parameters(function: Callable[..., Any]) -> frozenset[str]:
    """Returns the names of a function's parameters, of a class those of its constructor."""
    return frozenset(inspect.signature(function).parameters)


@cache  # a package's metadata are an email message that each call would parse
def version_of(name: str) -> str | None:
    """Returns the version of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return OWN_VERSION if name == "distft" else None
