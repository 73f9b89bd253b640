"""Data sources: resolves data.train and data.eval to files, folders, saved datasets and hub ids."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distft.config.errors import nearest
from distft.data.hub import is_hub_id
from distft.paths import absolute

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
COMPRESSED = (".gz", ".zst", ".bz2")
SPLIT_WORDS = re.compile(r"(?:^|[^a-z])(train|training|test|validation|valid|val|dev|eval)(?:$|[^a-z])")
SAVED = (("dataset_dict.json",), ("dataset_info.json", "state.json"))  # files that save_to_disk writes
METADATA_FILES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
SPLIT_KEY = {"data.train": "data.split", "data.eval": "data.eval_split"}
SAME_SPLIT = {"training": "train", "valid": "validation", "val": "validation", "dev": "validation", "eval": "test"}


@dataclass(frozen=True)
class Source:
    """Rows of one split in a fixed order: data files, or a dataset for the `datasets` library."""

    files: tuple[Path, ...] = ()
    saved: Path | None = None  # a folder written by save_to_disk
    hub_id: str | None = None
    split: str = "train"
    revision: str | None = None
    subset: str | None = None


def find_sources(key: str, value: str | list[str], data: dict[str, Any]) -> list[Source]:
    """Returns the sources that `key`, data.train or data.eval, names.

    Raises ValueError for a missing path, or an option without effect.
    """
    requested = data["split"] if key == "data.train" else data["eval_split"]
    splits = (requested,) if requested else ("train",) if key == "data.train" else ("validation", "test")
    items = [str(item) for item in (value if isinstance(value, list) else [value])]
    sources = [_source(key, item, splits, data) for item in items]
    remote = any(source.hub_id for source in sources)
    if requested and not remote:
        _check_split(key, str(requested), value, items)
    others = data.get("eval") if key == "data.train" else data.get("train")
    others = others if isinstance(others, list) else [others] if isinstance(others, str) else []
    remote = remote or any(_is_remote(str(item)) for item in others)
    for name in ("subset", "revision"):
        if data[name] and not remote:
            raise ValueError(f"data.{name}={data[name]} has no effect without a hub id in {key}. Try: data.{name}=null")
    return sources


def _check_split(key: str, requested: str, value: str | list[str], items: list[str]) -> None:
    """Raises ValueError where no local source has splits, or a slice of one is requested."""
    name = SPLIT_KEY[key]
    setting = f"{name}={requested}"
    if not any(_has_splits(absolute(item)) for item in items):
        what = "and slices are for hub ids" if "[" in requested else "so it would have no effect"
        raise ValueError(f"{setting}: {key}={value} has no splits, {what}. Try: {name}=null")
    if "[" in requested:
        raise ValueError(f"{setting}: slices are for hub ids. Try: {name}={requested.partition('[')[0]}")


def _has_splits(path: Path) -> bool:
    if not path.is_dir() or _is_saved(path):
        return (path / "dataset_dict.json").is_file()
    return any(_split_of(str(file.relative_to(path))) for file in _data_files(path))


def _is_saved(folder: Path) -> bool:
    """Returns whether save_to_disk wrote the folder; other tools write a dataset_info.json too."""
    return any(all((folder / name).is_file() for name in names) for names in SAVED)


def _is_remote(item: str) -> bool:
    return is_hub_id(item) and file_kind(Path(item)) not in KINDS


def _source(key: str, item: str, splits: tuple[str, ...], data: dict[str, Any]) -> Source:
    path = absolute(item)
    if path.is_dir():
        if _is_saved(path):
            return Source(saved=path, split=splits[0])
        return Source(files=_of_folder(key, path, splits))
    if path.is_file():
        return Source(files=(_readable(key, path),))
    if _is_remote(item):
        return Source(hub_id=item, split=splits[0], revision=data["revision"], subset=data["subset"])
    matching = sorted(path.parent.glob(path.name)) if "*" in path.name and path.parent.is_dir() else []
    if not matching:
        raise ValueError(f"{key}={item}: no such file or folder{_closest_name(path)}")
    return Source(files=tuple(_readable(key, file) for file in matching))


def _of_folder(key: str, folder: Path, splits: tuple[str, ...]) -> tuple[Path, ...]:
    """Returns the data files of a folder by name; if names show splits, those of the first of `splits` present."""
    found = _data_files(folder)
    if not found:
        raise ValueError(f"{key}={folder} has no data files ({', '.join(KINDS)})")
    named = {path: _split_of(str(path.relative_to(folder))) for path in found}
    if not any(named.values()):
        return tuple(found)
    if unnamed := [path.name for path in found if not named[path]]:
        raise ValueError(f"{key}={folder}: some names show a split, {unnamed[0]} does not. Try: a list of files")
    for split in splits:
        if chosen := tuple(path for path in found if named[path] == SAME_SPLIT.get(split, split)):
            return chosen
    have = ", ".join(sorted({split for split in named.values() if split}))
    first = have.partition(",")[0]
    hint = "data.eval=0.05" if (key, first) == ("data.eval", "train") else f"{SPLIT_KEY[key]}={first}"
    raise ValueError(f"{key}={folder} has no split {' or '.join(splits)}, only {have}. Try: {hint}")


def _data_files(folder: Path) -> list[Path]:
    """Returns the data files in a folder, sorted by name, without hidden and metadata files."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and file_kind(path) in KINDS)
    return [
        path
        for path in found
        if path.name not in METADATA_FILES and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _split_of(name: str) -> str | None:
    words = SPLIT_WORDS.findall(name.lower())
    return SAME_SPLIT.get(words[-1], words[-1]) if words else None


def _readable(key: str, path: Path) -> Path:
    if file_kind(path) not in KINDS:
        raise ValueError(f"{key}={path} has an unsupported type. Allowed: {', '.join(KINDS)}, also with .gz or .zst")
    return path


def _closest_name(path: Path) -> str:
    """Returns the end of an error message: the closest file name in the folder."""
    if not path.parent.is_dir():
        return f" ({path.parent} is missing)"
    near = nearest(path.name, [other.name for other in path.parent.iterdir()])
    return f". Did you mean {path.parent / near}?" if near else ""


def file_kind(path: Path) -> str:
    """Returns the suffix of a file without compression: `.jsonl`, `.csv` ..."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""
