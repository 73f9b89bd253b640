"""Cached results of the model check: one per config.json, weights, library versions and distft code.

Login nodes read them, so this module imports no torch. distft.model_check.architecture and .live measure.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, TypedDict

from distft.compat.reach import version_of
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


class Verdict(TypedDict):
    """The result of a model check; a model without `wrong` can be trained."""

    wrong: list[str]  # errors
    notes: list[str]  # remarks
    type: NotRequired[str]  # model_type of its config
    unmeasured: NotRequired[str]  # why no instance could be measured; the losses are compared when a run starts
    # else what model_check.live.Agreement has measured
    name: NotRequired[str]
    own: NotRequired[float]
    loss: NotRequired[float]
    other: NotRequired[float]
    of_logits: NotRequired[float]
    difference: NotRequired[float]


def read_verdict(folder: Path, cache_dir: str, task: str = "causal_lm") -> Verdict | None:
    """Returns the cached result for the model in `folder` and a task; None: not checked yet."""
    file = _file(folder, cache_dir, task)
    return read_json(file) if file.is_file() else None


def verdict_errors(folder: Path, cache_dir: str, task: str = "causal_lm") -> list[str]:
    """Returns the known errors of the model; an empty list where it was not checked."""
    kept = read_verdict(folder, cache_dir, task)
    return [f"model.path={folder}: {reason}" for reason in kept["wrong"]] if kept else []


def write_verdict(folder: Path, cache_dir: str, found: Verdict, task: str = "causal_lm") -> None:
    write_json(_file(folder, cache_dir, task), found)


def agreement_file(model: str, settings: Mapping[str, object], cache_dir: str) -> Path:
    """Returns the path of the marker file that exists once a live model has agreed with its class.

    model: `weights_version` of a folder, or the config of a random instance. settings: everything else that affects its
    computation.
    """
    text = json.dumps([model, settings, code_version()], sort_keys=True, default=str)
    return absolute(cache_dir) / "models" / f"agreed-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def code_version() -> str:
    """Returns a hash of what affects a model's computation: distft's code, and the versions of its libraries."""
    digest = hashlib.sha256()
    for name in ("torch", "transformers"):
        digest.update((version_of(name) or "").encode())
    for file in sorted(file for pattern in CODE for file in PACKAGE.glob(pattern)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def weights_version(folder: Path) -> str:
    """Returns a string that changes with a folder's config or weights: the config, and names, sizes and mtimes."""
    files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in folder.glob("*.safetensors*")]
    text = (folder / "config.json").read_text() if (folder / "config.json").is_file() else ""
    return json.dumps([text, sorted(files)])


def _file(folder: Path, cache_dir: str, task: str) -> Path:
    text = f"{weights_version(folder)}{code_version()}{'' if task == 'causal_lm' else task}"
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    return absolute(cache_dir) / "models" / f"{key}.json"
