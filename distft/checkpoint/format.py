"""The checkpoint format: named fp32 tensors in chunks, independent of strategy and world size.

    checkpoints/
        index.json                    steps that may exist: written before a checkpoint appears
        latest -> step-00000020       best -> step-00000010
        step-00000020/
            manifest.json             files with sizes and block hashes, tensor shapes, step, versions, config
            rank-00000.safetensors    this rank's chunks

A chunk is named `<slot>|<parameter>|<where>`. `slot` is `parameter`, or an optimizer state such as `exp_avg`, which
has its own shape: `step` is a scalar. `where` is the first element of a flat range, or the offsets of a box, `0,64`.
Only trained parameters are saved. There are no pickles, so reading a checkpoint runs no code. This file does not
import torch.

A file is valid when its size and block hashes match the manifest (distft.tensors.integrity), the manifest when the
sha256 of its body matches the one stored with it.

Trap: directory listings of shared filesystems lag, opening a file does not. So the index lists a step before its
checkpoint appears, and a listed step is committed when its manifest exists.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from distft.run import json_text, read_json
from distft.runtime.disk import replaced
from distft.tensors.integrity import Checksums, Damaged, check_names

FORMAT = 3
MANIFEST = "manifest.json"
PARAMETER = "parameter"
EMA = "ema"  # slot of the moving average of the weights (train.ema_decay)

Manifest = dict[str, Any]  # free-form JSON: later versions add keys, and readers keep those that they do not know


def step_dir(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def write_manifest(folder: Path, body: Manifest) -> None:
    """Writes or replaces the manifest of a checkpoint, and syncs it to disk."""
    with replaced(folder / MANIFEST) as new:
        new.write_text(json_text({"sha256": hash_of_body(body), "body": body}, indent=2) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Returns the manifest's body; Damaged when it is missing, unreadable or its hash differs."""
    file = folder / MANIFEST
    try:
        manifest = read_json(file)
        if manifest["sha256"] == hash_of_body(manifest["body"]):
            return manifest["body"]
    except FileNotFoundError as error:
        raise Damaged(f"{file} is missing") from error
    except (ValueError, RecursionError, TypeError, KeyError, OSError) as error:
        raise Damaged(f"{file} cannot be read: {error}") from error
    raise Damaged(f"{file} is damaged: its hash differs")


def checksums(folder: Path, manifest: Manifest) -> dict[Path, Checksums]:
    """Returns size and block hashes of each file by its path; Damaged when the manifest has another format version."""
    if manifest["format"] != FORMAT:
        raise Damaged(f"{folder / MANIFEST} has format {manifest['format']}, this version of distft reads {FORMAT}")
    check_names(folder / MANIFEST, (entry["name"] for entry in manifest["files"]))
    return {folder / entry["name"]: Checksums.of(entry) for entry in manifest["files"]}


def check_all(folder: Path) -> None:
    """Raises Damaged unless size and hashes of every file of the checkpoint match its manifest."""
    for file, checksum in checksums(folder, read_manifest(folder)).items():
        checksum.check(file)


def hash_of_body(body: Any) -> str:
    """Returns the sha256 of a JSON value, independent of whitespace and key order."""
    return hashlib.sha256(json_text(body, sort_keys=True).encode()).hexdigest()


INDEX = "index.json"
FOLDER = re.compile(r"step-(\d{8,})")


def read_index(checkpoints: Path) -> list[int]:
    """Returns the listed steps in order; from the folder names where the index is damaged or missing.

    `damage_of` reports such an index. The next save rewrites it.
    """
    try:
        return _read(checkpoints)
    except Damaged:
        return _seen(checkpoints)


def damage_of(checkpoints: Path) -> str:
    """Returns what is wrong with the index and which steps are used instead, or an empty text."""
    try:
        _read(checkpoints)
    except Damaged as error:
        seen = ", ".join(map(str, _seen(checkpoints)))
        return f"{error}. Using the names of the folders instead: {seen}" if seen else ""
    return ""


def _read(checkpoints: Path) -> list[int]:
    file = checkpoints / INDEX
    try:
        index: Any = read_json(file)
        steps, digest = index["steps"], index["sha256"]
    except FileNotFoundError as error:
        raise Damaged(f"{file} is missing") from error
    except (ValueError, RecursionError, TypeError, KeyError, OSError) as error:
        raise Damaged(f"{file} cannot be read: {error}") from error
    if digest != hash_of_body(steps):
        raise Damaged(f"{file} is damaged: its hash differs")
    return steps


def _seen(checkpoints: Path) -> list[int]:
    names = [FOLDER.fullmatch(folder.name) for folder in checkpoints.glob("step-*")]
    return sorted(int(name[1]) for name in names if name)


def write_index(checkpoints: Path, steps: set[int]) -> None:
    """Replaces the index, and syncs it to disk."""
    listed = sorted(steps)
    with replaced(checkpoints / INDEX) as new:
        new.write_text(json.dumps({"sha256": hash_of_body(listed), "steps": listed}) + "\n")
