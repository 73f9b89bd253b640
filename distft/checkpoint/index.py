"""Which checkpoints there may be: a file of steps, so that nobody has to trust a folder's listing.

A step is written here before its checkpoint appears, so a checkpoint that appeared is always listed; one that is
listed counts when its manifest is there. Listings of shared filesystems lag, a file that is opened does not.
"""

import json
import re
from pathlib import Path
from typing import Any

from distft.checkpoint.manifest import hash_of_body
from distft.run import read_json
from distft.runtime.disk import replaced
from distft.runtime.seals import Damaged

INDEX = "index.json"
FOLDER = re.compile(r"step-(\d{8,})")


def read_index(checkpoints: Path) -> list[int]:
    """Returns the steps that may be there, in order; where the index is damaged or gone, those whose folders are seen.

    `damage_of` tells when that is so. The next save writes the index anew.
    """
    try:
        return _read(checkpoints)
    except Damaged:
        return _seen(checkpoints)


def damage_of(checkpoints: Path) -> str:
    """Returns what is wrong with the index and what is taken for it, or an empty text."""
    try:
        _read(checkpoints)
    except Damaged as error:
        seen = ", ".join(map(str, _seen(checkpoints)))
        return f"{error}. Going by the folders' names instead: {seen}" if seen else ""
    return ""


def _read(checkpoints: Path) -> list[int]:
    file = checkpoints / INDEX
    try:
        index: Any = read_json(file)
        steps, seal = index["steps"], index["sha256"]
    except FileNotFoundError as error:
        raise Damaged(f"{file} is missing") from error
    except (ValueError, RecursionError, TypeError, KeyError, OSError) as error:
        raise Damaged(f"{file} cannot be read: {error}") from error
    if seal != hash_of_body(steps):
        raise Damaged(f"{file} is not what was written: its hash differs")
    return steps


def _seen(checkpoints: Path) -> list[int]:
    names = [FOLDER.fullmatch(folder.name) for folder in checkpoints.glob("step-*")]
    return sorted(int(name[1]) for name in names if name)


def write_index(checkpoints: Path, steps: set[int]) -> None:
    """Replaces the list; it would survive a loss of power when this returns."""
    listed = sorted(steps)
    with replaced(checkpoints / INDEX) as beside:
        beside.write_text(json.dumps({"sha256": hash_of_body(listed), "steps": listed}) + "\n")
