import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distft.data import key
from distft.data.hub import NotFetched
from distft.data.key import data_key, file_hash, prepared_dir
from distft.data.tokenize import byte_tokenizer
from distft.run import write_json

ROWS = [{"prompt": str(i), "completion": "x"} for i in range(5)]


@pytest.fixture
def values(config: Callable[..., dict[str, Any]], write_rows: Callable[..., Path]) -> dict[str, Any]:
    return config(write_rows(ROWS))


def test_a_change_of_batch_size_keeps_the_key(values: dict[str, Any]):
    before = data_key(values)
    values["train"] = {"global_batch_size": 8, "micro_batch_size": 1}
    values["seed"], values["runs_dir"], values["name"] = 7, "elsewhere", "other"
    values["data"] |= {"packing": True, "shards": [0], "max_bad_fraction": 0.5, "max_truncated_fraction": 1.0}
    values["model"]["attention"] = "eager"
    assert data_key(values) == before


def test_another_path_or_cache_keeps_the_key(values: dict[str, Any], tmp_path: Path):
    before = data_key(values)
    (tmp_path / "other folder").mkdir()
    moved = shutil.copy(values["data"]["train"], tmp_path / "other folder" / "neu (é).jsonl")
    values["data"]["train"] = str(moved)
    values["cache_dir"] = str(tmp_path / "other cache")
    assert data_key(values) == before


def test_each_option_that_changes_tokens_changes_the_key(values: dict[str, Any]):
    own = values["data"]["train"]
    changes: list[dict[str, Any]] = [
        {},
        {"format": "text"},
        {"fields": {"prompt": "question"}},
        {"ignore_fields": ["system"]},
        {"max_length": 255},
        {"seed_date": "2026-01-02"},
        {"chat_template": "none"},
        {"eval": 0.1},
        {"eval": 0.2},
        {"eval": 0.1, "split_seed": 1},
        {"eval": own},
        {"eval": own, "overlap": "drop"},
        {"train": [own, own]},
    ]
    assert len({data_key(values | {"data": values["data"] | change}) for change in changes}) == len(changes)


def test_a_changed_byte_of_the_rows_changes_the_key(values: dict[str, Any]):
    before = data_key(values)
    path = Path(values["data"]["train"])
    path.write_text(path.read_text().replace('"3"', '"4"'))
    assert data_key(values) != before


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_changed_byte_of_tokenizer_or_template_changes_the_key(values: dict[str, Any], tmp_path: Path, name: str):
    byte_tokenizer().save_pretrained(tmp_path / "model")
    values["model"] |= {"tiny": False, "path": str(tmp_path / "model")}
    before = data_key(values)
    (tmp_path / "model" / "model.safetensors").write_text("other weights make no other tokens")
    assert data_key(values) == before
    with (tmp_path / "model" / name).open("a") as file:
        file.write(" ")
    assert data_key(values) != before


def test_a_template_file_is_keyed_by_its_text(values: dict[str, Any], tmp_path: Path):
    template = tmp_path / "chat.jinja"
    keys = set()
    for text in ("a", "b", "a"):
        template.write_text(text)
        values["data"]["chat_template"] = str(template)
        keys.add(data_key(values))
    assert len(keys) == 2
    values["data"]["chat_template"] = "automatic"
    with pytest.raises(ValueError, match=r"data\.chat_template=automatic is neither auto nor none nor a \.jinja file"):
        data_key(values)


def test_unfetched_data_has_no_key_and_is_not_prepared(values: dict[str, Any]):
    remote = values | {"data": values["data"] | {"train": "someone/rows"}}
    with pytest.raises(NotFetched):
        data_key(remote)
    assert prepared_dir(remote) is None
    remote = values | {"model": values["model"] | {"tiny": False, "path": "someone/model"}}
    with pytest.raises(NotFetched):
        data_key(remote)


def test_a_hub_dataset_is_keyed_by_commit_split_and_subset(values: dict[str, Any]):
    def key_of(**data: Any) -> str:
        return data_key(values | {"data": values["data"] | {"train": "someone/rows", "revision": "a" * 40} | data})

    keys = {key_of(), key_of(revision="b" * 40), key_of(split="other"), key_of(subset="en"), key_of(train="x/rows")}
    assert len(keys) == 5


def test_a_model_folder_without_a_tokenizer_is_named(values: dict[str, Any], tmp_path: Path):
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match=r"model\.path=.*bare has no tokenizer"):
        data_key(values | {"model": values["model"] | {"tiny": False, "path": str(tmp_path / "bare")}})


def test_a_big_file_is_hashed_again_only_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(key, "CACHED_HASH_BYTES", 0)
    path = tmp_path / "rows.jsonl"
    path.write_text("a")
    os.utime(path, (1, 1))
    first = file_hash(path, tmp_path)
    (memory,) = (tmp_path / "hashes").iterdir()
    write_json(memory, {"sha256": "remembered"})
    assert file_hash(path, tmp_path) == "remembered"
    path.write_text("b")
    os.utime(path, (1, 1))  # same size, same time: only the inode's change time differs
    assert file_hash(path, tmp_path) not in ("remembered", first)


def test_a_changed_comment_in_the_code_keeps_the_key(values: dict[str, Any], tmp_path: Path):
    shutil.copytree(Path(key.__file__).parents[1], tmp_path / "distft", ignore=shutil.ignore_patterns("__pycache__"))
    for file in (tmp_path / "distft" / "data").rglob("*.py"):
        file.write_text(f"{file.read_text()}# a comment\n")
    program = "import json, sys; from distft.data import key; print(key.__file__, key.data_key(json.load(sys.stdin)))"
    command, text = [sys.executable, "-c", program], json.dumps(values)
    done = subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.stdout.split() == [str(tmp_path / "distft" / "data" / "key.py"), data_key(values)]


def test_the_key_needs_no_heavy_import():
    heavy = "{'torch', 'transformers', 'datasets', 'tokenizers', 'pyarrow', 'numpy', 'huggingface_hub'}"
    program = f"import distft.data.key, sys; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
