"""Paths of conf/ and slurm/: next to the package in a checkout, inside it in a wheel.

Trap: an editable install has stale copies of both folders in site-packages, so those of the checkout come first.
"""

import os
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def shipped_dir(name: str) -> Path:
    """Returns the folder `conf` or `slurm` that belongs to this code; RuntimeError when the install lost it."""
    checkout = PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    if (PACKAGE / name).is_dir():
        return PACKAGE / name
    raise RuntimeError(f"the folder {name}/ is missing next to {PACKAGE}. Try: reinstall distft")


def conf_dir() -> Path:
    """Returns the folder of Hydra's config groups."""
    return shipped_dir("conf")


def absolute(path: str | Path) -> Path:
    """Returns the absolute form of a path a user wrote, `~` expanded; the file need not exist."""
    return Path(os.path.expanduser(path)).absolute()  # unlike Path.expanduser, keeps the ~ of an unknown user


def matching(pattern: Path) -> Iterator[Path]:
    """Yields the paths that match a pattern with `*` or `**` in any part, in no particular order."""
    parts = pattern.parts
    first = next((number for number, part in enumerate(parts) if "*" in part), len(parts))
    folder = Path(*parts[:first])
    if folder.is_dir() and first < len(parts):
        yield from folder.glob(str(Path(*parts[first:])))


def unused(path: Path) -> Path:
    """Returns the first of PATH, PATH-2, PATH-3 ... that does not exist."""
    others = (path.with_name(f"{path.name}-{i}") for i in count(2))
    return path if not path.exists() else next(other for other in others if not other.exists())


def why_not_writable(folder: Path) -> str | None:
    """Returns why `folder`, or its nearest existing parent, is not writable; None if it is."""
    there = folder
    try:
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not there.is_dir():
            return f"{there} cannot be written to: it is a file"
        with tempfile.TemporaryFile(dir=there):
            return None
    except OSError as error:  # also when a part of the path is too long
        return f"{there} cannot be written to: {error.strerror}"


def without_number(error: OSError) -> str:
    """Returns an OSError as text for the user, without its number: `PATH: No space left on device`."""
    if error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
