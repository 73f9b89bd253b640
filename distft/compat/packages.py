"""The versions of installed packages.

Trap: a checkout that is only on PYTHONPATH has no metadata, so distft's own version is read from its code.
"""

import importlib.metadata

import distft


def version_of(name: str) -> str | None:
    """Returns the version of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return distft.__version__ if name == "distft" else None
