"""The tags of one block of rows on disk: findings, signatures and the rows as read, next to the block's chunk.

They are written in any process, and read by the one that decides about all rows. The rows as read are kept so that
what is dropped later can be listed with its content.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distft.data.cleaning.contract import Finding
from distft.data.cleaning.engine import Tagged

_SIGNATURES, _FINDINGS, _ROWS = ".npz", ".tags.json", ".rows.jsonl"


def write_tags(chunk: Path, tagged: Tagged) -> None:
    """Writes the tags of the rows of a chunk."""
    flat = {f"{rule}/{name}": values for rule, columns in tagged.columns.items() for name, values in columns.items()}
    with chunk.with_suffix(_SIGNATURES).open("wb") as file:
        np.savez(file, **flat)  # type: ignore[arg-type]  # names of arrays, no options of it
    found = [[i, rule, finding.reason, list(finding.labels)] for i, rule, finding in tagged.findings]
    text = json.dumps({"rows": tagged.rows, "findings": found, "seconds": tagged.seconds})
    chunk.with_suffix(_FINDINGS).write_text(text)


def write_rows(chunk: Path, rows: Sequence[Any]) -> None:
    """Writes the rows of a chunk as read: JSON objects."""
    with chunk.with_suffix(_ROWS).open("w", encoding="utf-8", errors="surrogatepass") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)


def read_tags(chunk: Path) -> Tagged:
    """Returns the tags that `write_tags` wrote for a chunk."""
    stored = json.loads(chunk.with_suffix(_FINDINGS).read_text())
    columns: dict[str, dict[str, np.ndarray]] = {}
    with np.load(chunk.with_suffix(_SIGNATURES), allow_pickle=False) as arrays:
        for key in arrays.files:
            rule, _, name = key.partition("/")
            columns.setdefault(rule, {})[name] = arrays[key]
    findings = [(i, rule, Finding(reason, tuple(labels))) for i, rule, reason, labels in stored["findings"]]
    return Tagged(stored["rows"], findings, dict(columns), stored["seconds"])


def rows_as_read(chunk: Path) -> Iterator[Any]:
    """Yields the rows of a chunk as read, in order; none where they were not kept."""
    if not chunk.with_suffix(_ROWS).is_file():
        return
    with chunk.with_suffix(_ROWS).open(encoding="utf-8", errors="surrogatepass") as file:
        yield from map(json.loads, file)
