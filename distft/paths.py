"""Where conf/ and slurm/ are: beside the package in a checkout, inside it in a wheel.

Trap: an editable install leaves a stale copy of both folders in site-packages, so the checkout's own come first.
"""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped_dir(name: str) -> Path:
    """Returns the folder `conf` or `slurm` that belongs to this code; RuntimeError when the install lost it."""
    checkout = _PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    if (_PACKAGE / name).is_dir():
        return _PACKAGE / name
    raise RuntimeError(f"the folder {name}/ is missing beside {_PACKAGE}: reinstall distft")


def conf_dir() -> Path:
    """Returns the folder of Hydra's config groups."""
    return shipped_dir("conf")


def absolute(path: str | Path) -> Path:
    """Returns the absolute form of a path a user wrote, `~` expanded; the file need not exist."""
    return Path(os.path.expanduser(path)).absolute()  # unlike Path.expanduser, leaves ~nobody as it is
