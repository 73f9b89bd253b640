import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distft.config import Config
from distft.data import key
from distft.data.hub import NotFetched
from distft.data.key import data_key, file_hash, prepared_dir
from distft.data.tokenize import byte_tokenizer
from distft.run import write_json

ROWS = [{"prompt": str(i), "completion": "x"} for i in range(5)]


@pytest.fixture
def asked(config: Callable[..., Config], write_rows: Callable[..., Path]) -> Config:
    return config(write_rows(ROWS))


def with_data(asked: Config, **data: Any) -> Config:
    return asked.changed({f"data.{name}": value for name, value in data.items()})


def test_a_change_of_batch_size_keeps_the_key(asked: Config):
    before = data_key(asked)
    changes = {"train.global_batch_size": 8, "train.micro_batch_size": 1, "seed": 7, "runs_dir": "elsewhere"}
    changes |= {"name": "other", "data.packing": True, "data.shards": [0], "data.max_bad_fraction": 0.5}
    changes |= {"data.max_truncated_fraction": 1.0, "data.num_proc": 3, "model.attention": "eager"}
    asked = asked.changed(changes)
    assert data_key(asked) == before


def test_another_path_or_cache_keeps_the_key(asked: Config, tmp_path: Path):
    before = data_key(asked)
    (tmp_path / "other folder").mkdir()
    moved = shutil.copy(str(asked.data.train), tmp_path / "other folder" / "neu (é).jsonl")
    asked = asked.changed({"data.train": str(moved), "cache_dir": str(tmp_path / "other cache")})
    assert data_key(asked) == before


def test_each_option_that_changes_tokens_changes_the_key(asked: Config):
    own = asked.data.train
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
    assert len({data_key(with_data(asked, **change)) for change in changes}) == len(changes)


def test_a_changed_byte_of_the_rows_changes_the_key(asked: Config):
    before = data_key(asked)
    path = Path(str(asked.data.train))
    path.write_text(path.read_text().replace('"3"', '"4"'))
    assert data_key(asked) != before


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_changed_byte_of_tokenizer_or_template_changes_the_key(asked: Config, tmp_path: Path, name: str):
    byte_tokenizer().save_pretrained(tmp_path / "model")
    asked = asked.changed({"model.tiny": False, "model.path": str(tmp_path / "model")})
    before = data_key(asked)
    (tmp_path / "model" / "model.safetensors").write_text("other weights make no other tokens")
    assert data_key(asked) == before
    with (tmp_path / "model" / name).open("a") as file:
        file.write(" ")
    assert data_key(asked) != before


def test_a_template_file_is_keyed_by_its_text(asked: Config, tmp_path: Path):
    template = tmp_path / "chat.jinja"
    keys = set()
    for text in ("a", "b", "a"):
        template.write_text(text)
        asked = with_data(asked, chat_template=str(template))
        keys.add(data_key(asked))
    assert len(keys) == 2
    asked = with_data(asked, chat_template="automatic")
    with pytest.raises(ValueError, match=r"data\.chat_template=automatic is neither auto nor none nor a \.jinja file"):
        data_key(asked)


def test_unfetched_data_has_no_key_and_is_not_prepared(asked: Config):
    remote = with_data(asked, train="someone/rows")
    with pytest.raises(NotFetched):
        data_key(remote)
    assert prepared_dir(remote) is None
    remote = asked.changed({"model.tiny": False, "model.path": "someone/model"})
    with pytest.raises(NotFetched):
        data_key(remote)


def test_a_hub_dataset_is_keyed_by_commit_split_and_subset(asked: Config):
    def key_of(**data: Any) -> str:
        return data_key(with_data(asked, **{"train": "someone/rows", "revision": "a" * 40} | data))

    keys = {key_of(), key_of(revision="b" * 40), key_of(split="other"), key_of(subset="en"), key_of(train="x/rows")}
    assert len(keys) == 5


def test_a_model_folder_without_a_tokenizer_is_named(asked: Config, tmp_path: Path):
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match=r"model\.path=.*bare has no tokenizer"):
        data_key(asked.changed({"model.tiny": False, "model.path": str(tmp_path / "bare")}))


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


@pytest.mark.slow
def test_a_changed_comment_in_the_code_keeps_the_key(asked: Config, tmp_path: Path):
    shutil.copytree(Path(key.__file__).parents[1], tmp_path / "distft", ignore=shutil.ignore_patterns("__pycache__"))
    for file in (tmp_path / "distft" / "data").rglob("*.py"):
        file.write_text(f"{file.read_text()}# a comment\n")
    program = (
        "import json, sys; from distft.config import Config; from distft.data import key\n"
        "print(key.__file__, key.data_key(Config.of(json.load(sys.stdin))))"
    )
    command, text = [sys.executable, "-c", program], json.dumps(asked.values)
    done = subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.stdout.split() == [str(tmp_path / "distft" / "data" / "key.py"), data_key(asked)]


@pytest.mark.slow
def test_the_key_needs_no_heavy_import():
    heavy = "{'torch', 'transformers', 'datasets', 'tokenizers', 'pyarrow', 'numpy', 'huggingface_hub'}"
    program = f"import distft.data.key, sys; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
