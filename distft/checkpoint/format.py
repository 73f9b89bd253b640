"""The format of a checkpoint: named fp32 tensors in chunks, whatever strategy and world wrote them.

    checkpoints/
        index.json                    steps that may be there: written before a checkpoint appears
        latest -> step-00000020       best -> step-00000010
        step-00000020/
            manifest.json             files with sizes and hashes of their blocks, shapes, step, versions, config
            rank-00000.safetensors    this rank's chunks

A chunk is called `<slot>|<parameter>|<where>`. `slot` is `parameter`, or an optimizer state such as `exp_avg`, which
has its own shape: `step` has none. `where` is the first element of a flat range, or the offsets of a box, `0,64`.
Only trained parameters are saved. Nothing here is a pickle, and nothing in this file loads torch.

A file counts when its size and hashes are the manifest's (distft.runtime.seals), the manifest when its body's sha256
is the one beside it. Nothing read here can run code, and nothing in this file loads torch.

A step is written here before its checkpoint appears, so a checkpoint that appeared is always listed; one that is
listed counts when its manifest is there. Listings of shared filesystems lag, a file that is opened does not.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from distft.run import json_text, read_json
from distft.runtime.disk import replaced
from distft.tensors.integrity import Damaged, Seal, check_names

FORMAT = 3
MANIFEST = "manifest.json"
PARAMETER = "parameter"


def step_dir(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def write_manifest(folder: Path, body: dict[str, Any]) -> None:
    """Writes the manifest of a checkpoint, or over it; it would survive a loss of power when this returns."""
    with replaced(folder / MANIFEST) as beside:
        beside.write_text(json_text({"sha256": hash_of_body(body), "body": body}, indent=2) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest's body; Damaged when it is missing, unreadable or not what was written."""
    file = folder / MANIFEST
    try:
        manifest = read_json(file)
        if manifest["sha256"] == hash_of_body(manifest["body"]):
            return manifest["body"]
    except FileNotFoundError as error:
        raise Damaged(f"{file} is missing") from error
    except (ValueError, RecursionError, TypeError, KeyError, OSError) as error:
        raise Damaged(f"{file} cannot be read: {error}") from error
    raise Damaged(f"{file} is not what was written: its hash differs")


def seals(folder: Path, manifest: dict[str, Any]) -> dict[Path, Seal]:
    """Returns what each file of the checkpoint must be, by its path; Damaged when this version reads another format."""
    if manifest["format"] != FORMAT:
        raise Damaged(f"{folder / MANIFEST} is of format {manifest['format']}, this version of distft reads {FORMAT}")
    check_names(folder / MANIFEST, (entry["name"] for entry in manifest["files"]))
    return {folder / entry["name"]: Seal.of(entry) for entry in manifest["files"]}


def check_all(folder: Path) -> None:
    """Raises Damaged unless every file of the checkpoint is what was written."""
    for file, seal in seals(folder, read_manifest(folder)).items():
        seal.check(file)


def hash_of_body(body: Any) -> str:
    """Returns the sha256 of what a JSON file says, however it is spaced."""
    return hashlib.sha256(json_text(body, sort_keys=True).encode()).hexdigest()


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
