"""What a run is called after: the model and the rows that it loads, not the words that its command line chose.

A word of conf/ with a path or rows of one's own stands for these; then their folder or file gives the name.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from distft.config.schema import Model
from distft.paths import conf_dir
from distft.run import read_yaml

_LONGEST = 48  # letters
_ROWS = re.compile(r"\.(jsonl?|ndjson|csv|tsv|parquet|txt|gz|zst|bz2)$", re.IGNORECASE)


def model_label(model: Model, word: str | None) -> str:
    """Returns the word where the model is the one that its YAML names, or tiny; else the name of its folder or hub id.

    word: chosen in the group `model`, if that is known.
    """
    if word and (not model.path or model.tiny or model.path == _of_word("model", word, "path")):
        return word
    return _short(_folder_name(model.path)) if model.path else "model"


def data_label(train: Any, word: str) -> str:
    """Returns the word where the rows are those that its YAML names; else the name of their first file or hub id.

    train: data.train.
    """
    first = train[0] if isinstance(train, list) and train else train
    if not first or train == _of_word("data", word, "train"):
        return word
    path = PurePosixPath(str(first["path"] if isinstance(first, Mapping) else first))
    name = next((part for part in reversed(path.parts) if "*" not in part), word)
    while _ROWS.search(name):
        name = _ROWS.sub("", name)
    return _short(name) or word


def _of_word(group: str, word: str, key: str) -> Any:
    file = conf_dir() / group / f"{word}.yaml"
    return (read_yaml(file) or {}).get(key) if file.is_file() else None


def _folder_name(path: str) -> str:
    """Returns the last part that says something: of a run's final/ the run, of the hub's cache the model."""
    folder = Path(path)
    cached = next((part for part in folder.parts if part.startswith("models--")), None)
    if cached:
        return cached.rpartition("--")[2]
    is_export = folder.name == "final" and (folder.parent / "config.yaml").is_file()
    return folder.parent.name if is_export else folder.name


def _short(name: str) -> str:
    """Returns the name in letters that every file system and URL takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:_LONGEST].strip("-.")
