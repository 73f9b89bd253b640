"""Progress of the data stage: its share of the bytes grows to 1, and is unknown where a size is."""

import bz2
import gzip
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distft.config import Config
from distft.data import blocks, json_lines, tables
from distft.data.stage import prepare_data

Make = Callable[..., Config]
ROWS = [{"prompt": f"question {i}?", "completion": f"answer {i} " * (1 + i % 7)} for i in range(300)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def shares(config: Config, monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    monkeypatch.setattr(json_lines, "LINES", 16)
    monkeypatch.setattr(tables, "BATCH_ROWS", 16)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 32)
    found: list[float | None] = []
    rows: list[int] = []

    def note(read: int, share: float | None) -> None:
        rows.append(read)
        found.append(share)

    prepare_data(config.changed({"data.num_proc": 1, "data.max_bad_fraction": 1.0}), note)
    assert rows == sorted(rows) and rows[-1] >= 300
    return found


def write(folder: Path, kind: str) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        path.write_bytes(LINES)
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(LINES))
    elif kind == "jsonl.bz2":
        path.write_bytes(bz2.compress(LINES))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=50)
    else:
        path.write_text("prompt,completion\n" + "".join(f"{each['prompt']},{each['completion']}\n" for each in ROWS))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "csv"])
def test_the_share_grows_with_the_rows_to_the_end(
    config: Make, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    found = shares(config(write(tmp_path, kind)), monkeypatch)
    assert found[0] == 0
    known = [share for share in found[1:] if share is not None]
    least = 0.85 if kind == "csv" else 0.999  # of CSV the separators are not counted
    assert len(known) == len(found) - 1 >= 9
    assert known == sorted(known) and least <= known[-1] <= 1.0
    assert 0.02 < known[0] < 0.2 and max(b - a for a, b in pairwise(known)) < 0.25


@pytest.mark.slow
def test_files_add_up_by_their_sizes(config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.jsonl").write_bytes(LINES[: LINES.index(b"\n", len(LINES) // 3) + 1])
    (tmp_path / "b.jsonl").write_bytes(b"\n")
    (tmp_path / "c.jsonl").write_bytes(LINES)
    found = shares(config([tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl")]), monkeypatch)
    known = [share for share in found if share is not None]
    assert known == sorted(known) and known[-1] == 1.0 and known[-3] < 0.97
    assert any(abs(share - 0.25) < 0.02 for share in known), "a third of the larger file is a quarter of both"


def test_a_file_of_unknown_size_has_no_share(config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert set(shares(config(write(tmp_path, "jsonl.bz2")), monkeypatch)) == {None}
