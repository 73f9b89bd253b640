"""Documents of datatrove: read as text with their licences counted, and written again as a split holds them."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distft.config import Config, ConfigError
from distft.data import document_files
from distft.data.document_files import write_documents
from distft.data.shards import Rows
from distft.data.stage import ensure_prepared, prepare_data
from distft.inspect_data import main
from distft.report.data import gather

Make = Callable[..., Config]
WriteRows = Callable[..., Path]


def documents(folder: Path, count: int = 40) -> list[dict[str, Any]]:
    """Writes a folder as datatrove's JsonlWriter does: empty fields are left out, one file per task."""
    rows = [
        {
            "text": f"document {i}: {'word ' * (i % 5)}end",
            "id": f"a/{i}",
            "metadata": {"license": "MIT", "topic": i % 3},
        }
        for i in range(count)
    ]
    rows[7]["metadata"] = {"file_path": "s3://b/c"}
    folder.mkdir()
    for task in range(2):
        with gzip.open(folder / f"{task:05}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows[task::2])
    return rows


def written(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in sorted(folder.iterdir()):
        with gzip.open(path, "rt") as file:
            found += map(json.loads, file)
    return found


def test_a_folder_of_datatrove_is_read_as_text(config: Make, tmp_path: Path):
    documents(tmp_path / "docs")
    asked = config(tmp_path / "docs")
    prepared = prepare_data(asked)
    assert len(Rows(prepared.folder, "train")) == 40
    assert gather(prepared.folder, asked)["licences"] == [("MIT", 39), ("not stated", 1)]


def test_licences_of_items_come_before_those_of_rows(config: Make, tmp_path: Path):
    documents(tmp_path / "docs")
    asked = config([{"path": str(tmp_path / "docs"), "licence": "internal"}])
    assert gather(prepare_data(asked).folder, asked)["licences"] == [("internal", 40)]


def test_what_is_written_is_what_was_read(config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = documents(tmp_path / "docs")
    asked = config([{"path": str(tmp_path / "docs"), "licence": "internal", "origin": "crawl"}])
    prepared = prepare_data(asked)
    monkeypatch.setattr(document_files, "FILE_ROWS", 15)
    made = write_documents(asked, prepared.folder, "train", None, tmp_path / "out")
    assert (made.rows, [path.name for path in made.paths]) == (40, [f"0000{i}.jsonl.gz" for i in range(3)])
    by_id = {row["id"]: row for row in written(tmp_path / "out")}
    assert {name: row["text"] for name, row in by_id.items()} == {row["id"]: row["text"] for row in rows}
    assert by_id["a/3"]["metadata"] == {
        "file_path": str(tmp_path / "docs" / "00001.jsonl.gz"),
        "line": 2,
        "license": "MIT",
        "source": "crawl",
        "topic": 0,
    }
    assert by_id["a/7"]["metadata"]["license"] == "internal"
    again = prepare_data(config(tmp_path / "out"))
    assert sorted(Rows(again.folder, "train").ids) == sorted(Rows(prepared.folder, "train").ids)


def test_dropped_rows_and_the_other_split_are_not_written(config: Make, write_rows: WriteRows, tmp_path: Path):
    rows = [{"text": f"the row of number {i} is a row"} for i in range(60)]
    rows[5] = rows[2]
    rows[9] = {"text": "mail jo@firma.de about it"}
    changes = {f"clean.{name}.enabled": True for name in ("exact_duplicates", "pii")} | {"clean.pii.action": "redact"}
    asked = config(write_rows(rows), eval=0.2).changed(changes)
    prepared = prepare_data(asked)
    found = {}
    for part in ("train", "eval"):
        made = write_documents(asked, prepared.folder, part, None, tmp_path / part)  # pyright: ignore[reportArgumentType]
        found[part] = [(row["metadata"]["line"], row["text"]) for row in written(tmp_path / part)]
        assert made.rows == len(Rows(prepared.folder, part)) == len(found[part]) > 4
    assert {line for line, _ in found["train"]} ^ {line for line, _ in found["eval"]} == {*range(1, 61)} - {6}
    assert (10, "mail <EMAIL> about it") in [*found["train"], *found["eval"]]


def test_media_and_conversations_are_refused(config: Make, write_rows: WriteRows, tmp_path: Path):
    image = [
        {"text": "a", "metadata": {}, "media": [{"id": "1", "type": 0, "url": "x"}]},
        {"text": "b", "metadata": {}},
    ]
    prepared = prepare_data(config(write_rows(image), max_bad_fraction=1.0))
    assert "media: is not empty" in (prepared.folder / "bad_rows.txt").read_text()
    asked = config(write_rows([{"prompt": "a", "completion": "b"}]))
    with pytest.raises(ConfigError, match=r"rows.jsonl:1 is a row of format prompt_completion.* Try: as=openai"):
        write_documents(asked, ensure_prepared(asked).folder, "train", None, tmp_path / "out")


def test_the_command_writes_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    documents(tmp_path / "docs")
    given = ["model.tiny=true", "cache_dir=cache", "data.train=docs", "data.eval=null", "as=datatrove"]
    assert main([*given, "n=3", "out=made/out"]) == 0
    assert [row["id"] for row in written(tmp_path / "made" / "out")] == ["a/0", "a/2", "a/4"]
    for wrong, reason in (("out=docs", "is not empty"), ("out=", "Try: out=FOLDER")):
        with pytest.raises(ConfigError, match=reason):
            main([*given, wrong])
