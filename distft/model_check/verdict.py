"""Cached results of the model check: one per config.json, weights, library versions and distft code.

Login nodes read them, so this module imports no torch. distft.model_check.architecture and .live measure.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distft.paths import absolute
from distft.run import read_json, write_json

PACKAGE = Path(__file__).parents[1]
CODE = (  # a cached result is valid for these files alone
    "model_check/*.py",
    "models/**/*.py",
    "losses/*.py",
    "strategies/*.py",
    "data/batches.py",
    "compat/*.py",
)


def kept_verdict(folder: Path, cache_dir: str) -> dict[str, Any] | None:
    """Returns what was found of the model in `folder`; `wrong` has the reasons against it. None: not looked at yet."""
    file = _file(folder, cache_dir)
    return read_json(file) if file.is_file() else None


def wrong_by_verdict(folder: Path, cache_dir: str) -> list[str]:
    """Returns the reasons against the model that are known; none where nothing has been looked at."""
    kept = kept_verdict(folder, cache_dir) or {"wrong": []}
    return [f"model.path={folder}: {reason}" for reason in kept["wrong"]]


def keep_verdict(folder: Path, cache_dir: str, found: Mapping[str, Any]) -> None:
    write_json(_file(folder, cache_dir), dict(found))


def agreed_file(model: str, settings: Mapping[str, Any], cache_dir: str) -> Path:
    """Returns the file that is there once a live model has been found to agree with its class.

    model: `weights_version` of a folder, or the facts of a random instance. settings: all else that decides how it
    computes.
    """
    text = json.dumps([model, settings, code_version()], sort_keys=True, default=str)
    return absolute(cache_dir) / "models" / f"agreed-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def code_version() -> str:
    """Returns a hash of what decides how a model computes here: our code, and the versions of what it stands on."""
    digest = hashlib.sha256()
    for name in ("torch", "transformers"):
        digest.update(_version(name).encode())
    for file in sorted(file for pattern in CODE for file in PACKAGE.glob(pattern)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def weights_version(folder: Path) -> str:
    """Returns what changes with the config or the weights of a folder: the text, and names, sizes and times."""
    files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in folder.glob("*.safetensors*")]
    text = (folder / "config.json").read_text() if (folder / "config.json").is_file() else ""
    return json.dumps([text, sorted(files)])


def _file(folder: Path, cache_dir: str) -> Path:
    key = hashlib.sha256(f"{weights_version(folder)}{code_version()}".encode()).hexdigest()[:32]
    return absolute(cache_dir) / "models" / f"{key}.json"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
