"""Document files of prepared rows, for datatrove: JSON Lines of {text, id, metadata}, compressed.

The rows are those of a split: what cleaning leaves out is missing, and repaired or redacted texts are written. They are
read from the sources again, since the shards hold tokens. datatrove divides a folder by files, so there are several.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from distft.config import Config, ConfigError
from distft.config.data import SourceItem, source_items
from distft.data.example import Example, RawJson
from distft.data.formats import form_of
from distft.data.key import has_eval_rows
from distft.data.pipeline import content_id, make_pipeline
from distft.data.raw import RawRow
from distft.data.shards import Rows

FILE_ROWS = 50_000
TEXT_FIELDS = ("text", "content")  # of the formats whose rows are one text
OWN_FIELDS = ("id", "media", "metadata")


@dataclass(frozen=True)
class DocumentFiles:
    """The files that were written."""

    paths: list[Path]
    rows: int


def write_documents(
    config: Config, prepared: Path, part: Literal["train", "eval"], number: int | None, folder: Path
) -> DocumentFiles:
    """Writes the documents of a split to 00000.jsonl.gz and on. number: the first rows; None: all.

    Raises ConfigError for rows that are not one text, and for a folder that has files.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError([f"out={folder} is not empty, and datatrove would read its files too. Try: another folder"])
    folder.mkdir(parents=True, exist_ok=True)
    documents = islice(_documents(config, prepared, part), number)
    paths, rows = [], 0
    while some := list(islice(documents, FILE_ROWS)):
        paths.append(folder / f"{len(paths):05}.jsonl.gz")
        with gzip.open(paths[-1], "wt", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(each, ensure_ascii=False)}\n" for each in some)
        rows += len(some)
    return DocumentFiles(paths, rows)


def _documents(config: Config, prepared: Path, part: Literal["train", "eval"]) -> Iterator[RawJson]:
    """Yields the documents of a split in the order of the sources, each row once."""
    pipeline, _ = make_pipeline(config)
    key: Literal["train", "eval"] = "eval" if part == "eval" and has_eval_rows(config.data) else "train"
    cleaner = pipeline.cleaner if key == "train" else None
    wanted, left_out = set(Rows(prepared, part).ids), _left_out(prepared / "dropped.jsonl")
    (opened,) = pipeline.open(key)
    items = source_items(getattr(config.data, key))
    for block in opened.blocks:
        for raw in block.rows():
            if raw.value is None or (raw.file, raw.line) in left_out:
                continue
            example = pipeline.example_of(raw.value, opened.forms)
            if len(example.segments) != 1 or example.rejected:
                name = form_of(opened.forms, raw.value).name
                raise ConfigError(
                    [
                        f"as=datatrove: {raw.file}:{raw.line} is a row of format {name}, and a document is one text. "
                        "Try: as=openai for conversations"
                    ]
                )
            example = cleaner.look(raw, example, {}).example if cleaner else example
            if content_id(example) in wanted:
                yield _document(raw, example, items[block.item])


def _document(raw: RawRow, example: Example, item: SourceItem) -> RawJson:
    """Returns a document: its metadata are the row's, its other fields, and what data.train says of the source."""
    row: dict[str, Any] = raw.value or {}
    own = row.get("metadata")
    metadata = {"file_path": raw.file, "line": raw.line}
    metadata |= {name: value for name, value in (("license", item.licence), ("source", item.origin)) if value}
    metadata |= {name: value for name, value in row.items() if name not in (*TEXT_FIELDS, *OWN_FIELDS)}
    metadata |= own if isinstance(own, dict) else {} if own is None else {"metadata": own}
    identity = row.get("id")
    name = f"{raw.file}/{raw.line}" if identity is None else str(identity)
    return {"text": example.segments[0].text, "id": name, "metadata": metadata}


def _left_out(path: Path) -> set[tuple[str, int]]:
    """Returns file and line of the rows of dropped.jsonl."""
    with path.open() as file:
        found = map(json.loads, file)
        return {(each["source"], each["line"]) for each in found}
