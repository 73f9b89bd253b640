"""Models, tokenizers and datasets of the Hugging Face hub, pinned: a revision is looked up once and written down.

Reading what is pinned needs neither network nor huggingface_hub, so that a login node can compute keys.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distft.paths import absolute
from distft.run import read_json, write_json

HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
COMMIT = re.compile(r"[0-9a-f]{40}")
TOKENIZER_FILES = ["*.json", "*.jinja", "*.txt", "*.model"]


class NotFetched(RuntimeError):
    """Something of the hub that `distft prepare` has not brought here yet."""


def is_hub_id(path: str) -> bool:
    """Tells a hub id from a path: what exists as a file or folder is never one."""
    return HUB_ID.fullmatch(path) is not None and not absolute(path).exists()


def local_folder(path: str, revision: str | None, cache_dir: str | Path, weights: bool = True) -> Path:
    """Returns the folder of a model, or of a tokenizer (`weights=False`); NotFetched if it is no folder here."""
    if not is_hub_id(path):
        return absolute(path)
    for kind in ("model",) if weights else ("model", "tokenizer"):
        pin = _pin(kind, path, revision, cache_dir)
        if pin.is_file() and (folder := Path(read_json(pin)["folder"])).is_dir():
            return folder
    raise NotFetched(f"{path} (revision {revision or 'main'}) is not fetched into {cache_dir}")


def fetch(path: str, revision: str | None, cache_dir: str | Path, weights: bool = True) -> Path:
    """Returns the local folder of a hub id, fetched whole where it is not here yet; safetensors only."""
    try:
        return local_folder(path, revision, cache_dir, weights)
    except NotFetched:
        pass
    from huggingface_hub import snapshot_download

    patterns = TOKENIZER_FILES + (["*.safetensors"] if weights else [])
    hub = absolute(cache_dir) / "hub"

    def download(**options: Any) -> Path:
        return Path(snapshot_download(path, revision=revision, allow_patterns=patterns, **options))

    folder = _asked(path, revision, lambda: download(cache_dir=hub), lambda: download(local_files_only=True))
    if weights and not any(folder.glob("*.safetensors")):
        raise RuntimeError(f"model.path={path} has no safetensors file in {folder}, and distft opens no pickles")
    pin = _pin("model" if weights else "tokenizer", path, revision, cache_dir)
    write_json(pin, {"id": path, "revision": revision, "commit": folder.name, "folder": str(folder)})
    return folder


def dataset_commit(hub_id: str, revision: str | None, cache_dir: str | Path, ask: bool = False) -> str:
    """Returns the commit that a dataset's revision stands for; NotFetched where it is unknown and not to be asked."""
    if revision and COMMIT.fullmatch(revision):
        return revision
    pin = _pin("dataset", hub_id, revision, cache_dir)
    if pin.is_file():
        return read_json(pin)["commit"]
    if not ask:
        raise NotFetched(f"dataset {hub_id} (revision {revision or 'main'}) has not been fetched")
    from huggingface_hub import HfApi

    commit = _asked(hub_id, revision, lambda: HfApi().dataset_info(hub_id, revision=revision).sha)
    write_json(pin, {"id": hub_id, "revision": revision, "commit": commit})
    return str(commit)


def _asked(hub_id: str, revision: str | None, *ways: Callable[[], Any]) -> Any:
    """Returns what the first way that works gives; RuntimeError with the first one's reason."""
    reasons = []
    for way in ways:
        try:
            return way()
        except Exception as error:  # the hub's client raises its own, its transport's and the system's errors
            reasons.append((str(error).strip() or type(error).__name__).splitlines()[0])
    raise RuntimeError(
        f"{hub_id} (revision {revision or 'main'}) is no folder here and cannot be fetched: {reasons[0]} "
        "Give the path of a local folder, or run `distft prepare` where the hub can be reached."
    )


def _pin(kind: str, hub_id: str, revision: str | None, cache_dir: str | Path) -> Path:
    name = f"{kind}--{hub_id}@{revision or 'main'}".replace("/", "--")
    return absolute(cache_dir) / "hub" / "pins" / f"{name}.json"
