"""Models, tokenizers and datasets of the Hugging Face hub, pinned: a revision is looked up once and written down.

Reading what is pinned needs neither network nor huggingface_hub, so that a login node can compute keys.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distft.data.hub_client import Refused, Unavailable, Wanted, ask_hub
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
    """Returns the local folder of a hub id, fetched whole where it is not here yet; safetensors only.

    Refused or Unavailable, and no pin, where it cannot be had. A pin whose folder was deleted gets the same commit.
    """
    try:
        return local_folder(path, revision, cache_dir, weights)
    except NotFetched:
        pass
    from huggingface_hub import snapshot_download

    patterns = TOKENIZER_FILES + (["*.safetensors"] if weights else [])
    pin = _pin("model" if weights else "tokenizer", path, revision, cache_dir)
    commit = read_json(pin)["commit"] if pin.is_file() else revision

    def download(**options: Any) -> Path:
        return Path(snapshot_download(path, revision=commit, allow_patterns=patterns, **options))

    try:
        folder = ask_hub(Wanted(path, commit), lambda: download(cache_dir=absolute(cache_dir) / "hub"))
    except (Refused, Unavailable):
        folder = _of_own_cache(download)
        if folder is None:
            raise
    if weights and not any(folder.glob("*.safetensors")):
        raise RuntimeError(f"model.path={path} has no safetensors file in {folder}, and distft opens no pickles")
    write_json(pin, {"id": path, "revision": revision, "commit": folder.name, "folder": str(folder)})
    return folder


def _of_own_cache(download: Callable[..., Path]) -> Path | None:
    """Returns what other programs have fetched for the user, None where it is not there or not whole."""
    try:
        folder = download(local_files_only=True)
    except Exception:  # as many kinds as for a download; why the hub did not answer is told instead
        return None
    index = folder / "model.safetensors.index.json"
    names = set(read_json(index)["weight_map"].values()) if index.is_file() else set()
    return folder if all((folder / name).is_file() for name in names) else None


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

    wanted = Wanted(hub_id, revision, "dataset")
    commit = ask_hub(wanted, lambda: HfApi().dataset_info(hub_id, revision=revision).sha)
    write_json(pin, {"id": hub_id, "revision": revision, "commit": commit})
    return str(commit)


def _pin(kind: str, hub_id: str, revision: str | None, cache_dir: str | Path) -> Path:
    name = f"{kind}--{hub_id}@{revision or 'main'}".replace("/", "--")
    return absolute(cache_dir) / "hub" / "pins" / f"{name}.json"
