"""Data files: local files, members of zip archives and objects of a store, and the kind that their names show.

It imports nothing heavy, so that a login node can compute content keys.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
DOCUMENTS = (".txt", ".md", ".markdown", ".html", ".htm")
COMPRESSED = (".gz", ".zst", ".bz2")
LANGUAGES = {
    ".py": "Python", ".pyi": "Python", ".ipynb": "Jupyter", ".js": "JavaScript", ".jsx": "JavaScript",
    ".mjs": "JavaScript", ".ts": "TypeScript", ".tsx": "TypeScript", ".java": "Java", ".kt": "Kotlin",
    ".scala": "Scala", ".c": "C", ".h": "C", ".cc": "C++", ".cpp": "C++", ".cxx": "C++", ".hpp": "C++", ".cu": "CUDA",
    ".cs": "C#", ".go": "Go", ".rs": "Rust", ".rb": "Ruby", ".php": "PHP", ".swift": "Swift", ".m": "Objective-C",
    ".r": "R", ".jl": "Julia", ".lua": "Lua", ".pl": "Perl", ".sh": "Shell", ".bash": "Shell", ".sql": "SQL",
    ".hs": "Haskell", ".ml": "OCaml", ".ex": "Elixir", ".erl": "Erlang", ".clj": "Clojure", ".dart": "Dart",
    ".f90": "Fortran", ".vue": "Vue", ".css": "CSS", ".proto": "Protocol Buffers", ".tf": "Terraform",
}  # fmt: skip
KINDS = (*TABLES, *DOCUMENTS)


@dataclass(frozen=True)
class Remote:
    """An object of a store: its URL, and the version that its content key is made of."""

    url: str
    version: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.url.partition("://")[2]).name

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Member:
    """A file in a zip archive."""

    archive: Path
    member: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.member).name

    def __str__(self) -> str:
        return f"{self.archive}/{self.member}"


DataFile = Path | Remote | Member


def file_kind(file: DataFile) -> str:
    """Returns the suffix of a file without compression: `.jsonl`, `.csv` ..."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(file.name).suffixes]
    while suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_readable(file: DataFile) -> bool:
    kind = file_kind(file)
    return kind in KINDS or kind in LANGUAGES


def of_one_class(files: Iterable[DataFile]) -> list[DataFile]:
    """Returns the files of a folder that are its data.

    Tables, if there are any and not more files of source code; else source code with the documents next to it; else
    documents. So the README of a data set and the settings of a source tree are not taken for rows.
    """
    found = list(files)
    tables = [file for file in found if file_kind(file) in TABLES]
    code = [file for file in found if file_kind(file) in LANGUAGES]
    if tables and len(tables) >= len(code):
        return tables
    return [file for file in found if file_kind(file) in DOCUMENTS or file_kind(file) in LANGUAGES]
