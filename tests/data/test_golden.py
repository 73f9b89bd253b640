"""The same rows give the same tokens until distft.data.key.STAGE_VERSION changes.

The key of prepared rows has that version and not the text of the code, so a changed comment does not tokenize again.
Raise it by hand when tokens change: these digests show when. `python -m tests.data.test_golden` writes them, for a new
format or template, or after the version was raised.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distft.config import Config
from distft.config.data import Data
from distft.data.formats import format_names, load_format
from distft.data.key import STAGE_VERSION
from distft.data.pipeline import Outcome, RowPipeline
from distft.data.render import make_renderer
from distft.data.shards import Row, Rows
from distft.data.stage import prepare_data
from distft.data.tokenize import RowTokenizer, byte_tokenizer
from distft.run import read_json
from tests.data.conftest import FAMILIES, family_tokenizer

FILE = Path(__file__).with_name("golden.json")
HELLO = [{"role": "user", "content": "Hé, 2+2? "}, {"role": "assistant", "content": " It is\n4."}]
ROWS: dict[str, list[dict[str, Any]]] = {  # of each format; an own system prompt is refused by some templates
    "messages": [{"messages": [*HELLO, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes"}]}],
    "prompt_completion": [{"prompt": "Hé, 2+2? ", "completion": " 4 \n"}, {"prompt": "x" * 300, "completion": "y"}],
    "sharegpt": [{"conversations": [{"from": "human", "value": "Hé?"}, {"from": "gpt", "value": " It is\n4."}]}],
    "alpaca": [
        {"instruction": "Add", "input": "2, 2", "output": "4"},
        {"instruction": "Hé?", "input": "", "output": " y \n"},
    ],
    "code": [{"content": "def f():\n    return 'é'\n", "language": "Python", "path": "a.py", "licence": "MIT"}],
    "datatrove": [{"text": "plain wörds,\n in two lines ", "id": "a", "media": [], "metadata": {"license": "MIT"}}],
    "openai": [{"messages": [HELLO[0], HELLO[1] | {"weight": 1}]}],
    "text": [{"text": "plain wörds,\n in two lines "}],
}
DATA: dict[str, Any] = {"eval": None, "max_length": 256}


def trainable() -> list[str]:
    return [name for name in format_names() if "causal_lm" in load_format(name, {}).tasks]


def digest(rows: Iterator[Row]) -> str:
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps([row.input_ids.tolist(), row.trained.tolist()]).encode())
    return found.hexdigest()[:16]


def cases(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields the name and the digest of each case."""
    tokenizers = {family: (family_tokenizer(family), "auto") for family in sorted(FAMILIES)}
    tokenizers |= {"bytes": (byte_tokenizer(), "auto"), "none": (byte_tokenizer(), "none")}
    for form in trainable():
        file = folder / f"{form}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS[form]))
        for name, (tokenizer, template) in tokenizers.items():
            if form in ("messages", "openai", "sharegpt") and name == "none":  # which is refused
                continue
            pipeline = RowPipeline(
                make_renderer(tokenizer, template),
                RowTokenizer(tokenizer, 256),
                Data(**DATA | {"train": str(file)}),
                str(folder),
            )
            outcome = Outcome()
            [opened] = pipeline.open("train")
            found = (row for block in opened.blocks for row in block.rows())
            rows = [made.row for made in pipeline.rows(found, opened.forms, outcome)]
            assert rows and not outcome.stream.bad, f"{form} {name}: {outcome.stream}"
            yield f"{form} {name}", digest(iter(rows))
    yield from whole_stage(folder)


def whole_stage(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields what the stage makes of several kinds of files, and what it holds out."""
    pairs = [{"prompt": f"What is {i}?", "completion": f"{i * i}"} for i in range(40)]
    (folder / "a.csv").write_text(
        "prompt,completion\n" + "".join(f'"{p["prompt"]}",{p["completion"]}\n' for p in pairs)
    )
    pq.write_table(pa.Table.from_pylist(pairs), folder / "b.parquet")
    model = {"path": "nowhere/model", "revision": None, "tokenizer": None, "tiny": True, "trust_remote_code": False}
    files = [str(folder / name) for name in ("a.csv", "b.parquet")]
    values = {"cache_dir": str(folder / "cache"), "model": model, "data": DATA | {"train": files, "eval": 0.2}}
    prepared = prepare_data(Config.of(values)).folder
    for split in ("train", "eval"):
        yield f"stage {split}", digest(iter(Rows(prepared, split)))


@pytest.mark.slow
def test_tokens_of_fixed_rows_change_only_with_the_version(tmp_path: Path):
    assert set(ROWS) == set(trainable()), "give each format rows here, then: python -m tests.data.test_golden"
    golden = read_json(FILE)
    assert golden["version"] == STAGE_VERSION, "python -m tests.data.test_golden"
    found = dict(cases(tmp_path))
    changed = [name for name, value in golden["digests"].items() if found.get(name) != value]
    assert not changed, "other tokens: raise distft.data.key.STAGE_VERSION, then python -m tests.data.test_golden"
    assert found.keys() == golden["digests"].keys(), "python -m tests.data.test_golden"


def write() -> None:
    before = read_json(FILE) if FILE.is_file() else {"version": 0, "digests": {}}
    with tempfile.TemporaryDirectory() as folder:
        found = dict(cases(Path(folder)))
    changed = [name for name, value in before["digests"].items() if found.get(name) != value]
    if changed and before["version"] >= STAGE_VERSION:
        sys.exit(f"other tokens of {', '.join(changed)}: raise distft.data.key.STAGE_VERSION first")
    FILE.write_text(json.dumps({"version": STAGE_VERSION, "digests": found}, indent=2) + "\n")


if __name__ == "__main__":
    write()
