"""Which checkpoints there may be: a file of steps, so that nobody has to trust a folder's listing.

A step is written here before its checkpoint appears, so a checkpoint that appeared is always listed; one that is
listed counts when its manifest is there. Listings of shared filesystems lag, a file that is opened does not.
"""

import json
import os
from pathlib import Path

from distft.run import read_json
from distft.runtime.disk import sync

INDEX = "index.json"


def read_index(checkpoints: Path) -> list[int]:
    """Returns the steps that may be there, in order."""
    try:
        return sorted(read_json(checkpoints / INDEX)["steps"])
    except FileNotFoundError:
        return []


def write_index(checkpoints: Path, steps: set[int]) -> None:
    """Replaces the list; it would survive a loss of power when this returns."""
    beside = checkpoints / f".{INDEX}.new"
    try:
        beside.write_text(json.dumps({"steps": sorted(steps)}) + "\n")
        sync(beside)
        os.replace(beside, checkpoints / INDEX)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync(checkpoints)
