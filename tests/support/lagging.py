"""Simulates stale listings of a shared filesystem: listings are old, files opened by name are current."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class OldEntry:
    """The values of os.DirEntry at the time of the listing."""

    name: str
    path: str
    folder: bool
    link: bool

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self.folder and not (self.link and not follow_symlinks)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return not self.folder

    def is_symlink(self) -> bool:
        return self.link

    def is_junction(self) -> bool:
        return False

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return os.stat(self.path, follow_symlinks=follow_symlinks)

    def __fspath__(self) -> str:
        return self.path


class OldListing(list[OldEntry]):
    """The result of os.scandir."""

    def __enter__(self) -> "OldListing":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def close(self) -> None:
        return None


@contextmanager
def lagging(root: Path) -> Iterator[None]:
    """Freezes the listings of `root` and its subfolders; a folder created later looks empty."""
    scandir, listdir = os.scandir, os.listdir
    shown = {folder: OldListing(_entries(folder)) for folder, _, _ in os.walk(root)}

    def where(place: Any) -> str:
        return os.readlink(f"/proc/self/fd/{place}") if isinstance(place, int) else os.path.abspath(place)

    def old_scandir(place: Any = ".") -> Any:
        folder = where(place)
        is_inside = Path(folder).is_relative_to(root)
        return OldListing(shown.get(folder, ())) if is_inside else scandir(place)

    def old_listdir(place: Any = ".") -> list[Any]:
        with old_scandir(place) as entries:
            return [entry.name for entry in entries]

    os.scandir, os.listdir = old_scandir, old_listdir  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        os.scandir, os.listdir = scandir, listdir


def _entries(folder: str) -> list[OldEntry]:
    with os.scandir(folder) as entries:
        return [OldEntry(each.name, each.path, each.is_dir(), each.is_symlink()) for each in entries]
