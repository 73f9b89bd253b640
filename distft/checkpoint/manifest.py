"""The manifest of a checkpoint: what its files must be, sealed by its own hash.

A file counts when its size and xxh3_128 are the manifest's (fast: gigabytes a second), the manifest when its body's
sha256 is the one beside it. Hashes find damage, not malice: nothing read here can run code.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import xxhash

from distft.checkpoint.format import MANIFEST
from distft.run import read_json, write_json

READ_BYTES = 16 * 2**20


class Damaged(RuntimeError):
    """A checkpoint that must not be loaded; the message names the file and what is wrong with it."""


def write_manifest(folder: Path, body: dict[str, Any]) -> None:
    write_json(folder / MANIFEST, {"sha256": _seal(body), "body": body})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest's body; Damaged when it is missing, unreadable or not what was written."""
    file = folder / MANIFEST
    try:
        manifest = read_json(file)
        if manifest["sha256"] == _seal(manifest["body"]):
            return manifest["body"]
    except FileNotFoundError as error:
        raise Damaged(f"{file} is missing") from error
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise Damaged(f"{file} cannot be read: {error}") from error
    raise Damaged(f"{file} is not what was written: its hash differs")


def describe(file: Path) -> dict[str, Any]:
    """Returns name, size and hash of a file."""
    return {"name": file.name, "bytes": file.stat().st_size, "xxh3_128": _hash(file)}


def check_file(folder: Path, entry: dict[str, Any]) -> None:
    """Raises Damaged unless the file is the one that `entry` describes."""
    file = folder / entry["name"]
    if not file.is_file():
        raise Damaged(f"{file} is missing")
    size = file.stat().st_size
    if size != entry["bytes"]:
        raise Damaged(f"{file} has {size} bytes, its manifest says {entry['bytes']}")
    if _hash(file) != entry["xxh3_128"]:
        raise Damaged(f"{file} is not what was written: its hash differs")


def check_all(folder: Path) -> None:
    """Raises Damaged unless every file of the checkpoint is what was written."""
    for entry in read_manifest(folder)["files"]:
        check_file(folder, entry)


def _seal(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _hash(file: Path) -> str:
    digest = xxhash.xxh3_128()
    with file.open("rb") as handle:
        while block := handle.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
