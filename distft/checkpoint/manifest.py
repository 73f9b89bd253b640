"""The manifest of a checkpoint: what its files must be, sealed by its own hash.

A file counts when its size and hashes are the manifest's (distft.runtime.seals), the manifest when its body's sha256
is the one beside it. Nothing read here can run code, and nothing in this file loads torch.
"""

import hashlib
from pathlib import Path
from typing import Any

from distft.checkpoint.format import FORMAT, MANIFEST
from distft.run import json_text, read_json
from distft.runtime.disk import replaced
from distft.runtime.seals import Damaged, Seal, check_names


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
