"""What the config names on this machine: data files, model folders, checkpoints; missing ones with the nearest name.

Trap: `org/model` may be a hub id or a folder with a typing error; when the folder `org` is here, it is the latter.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distft.config.nearest import did_you_mean, nearest
from distft.config.tree import MISSING, at
from distft.paths import absolute

_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_STEP = re.compile(r"step-?\d+|\d+")
_DATA_FILE = re.compile(r"\.(jsonl?|ndjson|csv|tsv|parquet)(\.(gz|zst|bz2))?$", re.IGNORECASE)


def missing_files(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields key and error for every path that names nothing here and can be no hub id."""
    tiny = at(values, "model.tiny")
    for key in (*(() if tiny else ("model.path",)), "model.tokenizer"):
        yield from _missing(key, at(values, key), hub=True)
    for key in ("data.train", "data.eval"):
        value = at(values, key)
        for path in value if isinstance(value, list) else [value]:
            yield from _missing(key, path, hub=not _DATA_FILE.search(str(path)))
    resume = at(values, "checkpoint.resume")
    if resume in ("best", "latest") or _STEP.fullmatch(str(resume)):
        named = str(at(values, "name") or "NAME")
        path = Path(str(at(values, "runs_dir"))) / named / "checkpoints" / str(resume)
        auto = "auto goes on from the newest one. " if resume == "latest" else ""
        yield "checkpoint.resume", f"checkpoint.resume={resume}: {auto}A checkpoint is named by its path. Try: {path}"
    elif resume not in ("auto", "never"):
        yield from _missing("checkpoint.resume", resume, hub=False, words=("auto", "never"))
    if at(values, "data.chat_template") not in ("auto", "none"):
        yield from _missing("data.chat_template", at(values, "data.chat_template"), hub=False, words=("auto", "none"))


def _missing(key: str, value: Any, *, hub: bool, words: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    if not isinstance(value, str) or value == MISSING:
        return
    path = absolute(value)
    if path.exists() or ("*" in path.name and path.parent.is_dir() and any(path.parent.glob(path.name))):
        return
    if hub and is_hub_id(value):
        return
    folder = next(parent for parent in path.parents if parent.is_dir())
    meant = nearest(value, words) or nearest_path(path)
    hint = did_you_mean(meant) or f" Try: a name in {folder}"
    yield key, f"{key}={value}: there is no such file or folder.{hint}"


def is_hub_id(value: str) -> bool:
    """Tells whether a name that is no path here can be one of the hub: `name` or `org/name`, and no folder `org`."""
    return _HUB_ID.fullmatch(value) is not None and not ("/" in value and absolute(value).parent.is_dir())


def nearest_path(path: Path) -> str | None:
    """Returns the most alike existing path: there or in the deepest folder of its that exists."""
    folder = next(parent for parent in path.parents if parent.is_dir())
    if (folder / path.name).exists():
        return str(folder / path.name)
    missing = path.relative_to(folder).parts[0]
    try:
        names = [other.name for other in folder.iterdir()]
    except OSError:
        return None
    meant = nearest(missing, names)
    return str(folder / meant) if meant else None
