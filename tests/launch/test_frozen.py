"""A run continues with its own rows and model, which are compared by content and not by path."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from distft.config import Config, ConfigError, compose, frozen_text
from distft.data.stage import prepare_data
from distft.data.tokenize import byte_tokenizer
from distft.launch.history import Own, check_config, find_own, kept_rows
from distft.plan import make_plan
from distft.run import RunFolder
from distft.tensors.weight_files import content_hash
from tests.support.rows import write_sums

GPT2 = {"model_type": "gpt2", "n_embd": 4, "n_layer": 1, "n_head": 1, "vocab_size": 300, "n_positions": 512}


def save_model(folder: Path, value: float) -> Path:
    byte_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(str(GPT2).replace("'", '"'))
    save_file({"transformer.wte.weight": np.full((300, 4), value, np.float32)}, folder / "model.safetensors")
    return folder


@dataclass(frozen=True)
class Begun:
    """A run that was frozen from prepared rows, and the command that continues it."""

    folder: Path
    typed: list[str]
    run: RunFolder

    def asked(self, *overrides: str) -> Config:
        return compose([*self.typed, *overrides], kept=kept_rows)

    def own(self, *overrides: str) -> Own | None:
        return find_own(self.run, self.run.read_config(), self.asked(*overrides).values)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frozen")
    write_sums(folder)
    save_model(folder / "model", 1.0)
    return folder


@pytest.fixture
def begun(first: Path, tmp_path: Path) -> Begun:
    folder = tmp_path / "place"
    shutil.copytree(first, folder)
    typed = [f"data.train={folder / 'rows.jsonl'}", f"model.path={folder / 'model'}", f"cache_dir={folder / 'cache'}"]
    typed += [f"runs_dir={folder / 'runs'}", "name=run", "train.max_steps=3"]
    config = compose(typed)
    prepare_data(config)
    run = RunFolder(folder / "runs" / "run")
    run.write_plan(make_plan(config))
    run.config.write_text(frozen_text(config))
    return Begun(folder, typed, run)


def edit(file: Path) -> None:
    file.write_text(file.read_text().replace("and", "plus"))


@pytest.mark.slow
def test_a_run_keeps_its_rows_when_files_change(begun: Begun, monkeypatch: pytest.MonkeyPatch):
    plan, rows = begun.run.read_plan(), begun.folder / "rows.jsonl"
    own = begun.own()
    assert own and own.plan == plan and not own.lines
    copy = shutil.copy(rows, begun.folder / "copy.jsonl")
    edit(rows)
    own = begun.own()
    assert own and own.plan == plan
    assert [line.partition(": ")[0] for line in own.lines] == [f"data.train={rows} has changed since"]
    own = begun.own(f"data.train={copy}")
    assert own and own.plan == plan and own.values["data"]["train"] == str(rows), "the same rows are the same config"
    assert begun.own(f"data.train={shutil.copy(rows, begun.folder / 'other.jsonl')}") is None
    assert begun.own("checkpoint.allow_change=[data]") is None, "new rows are requested"
    rows.unlink()
    monkeypatch.chdir(begun.folder)
    for typed in ([], ["data.train=rows.jsonl"]):
        own = begun.own(*typed)
        assert own and own.plan == plan and "is gone since" in own.lines[0]
        assert make_plan(begun.asked(*typed), None, own.plan) == plan
    with pytest.raises(ConfigError, match=r"other2.jsonl: there is no such file"):
        begun.asked("data.train=other2.jsonl")
    with pytest.raises(ConfigError, match=r"rows.jsonl: there is no such file"):
        begun.asked("name=another")


@pytest.mark.slow
def test_prepared_rows_are_found_rebuilt_or_reported_missing(begun: Begun):
    cache, other = begun.folder / "cache", begun.folder / "cache 2"
    shutil.move(cache, other)
    own = begun.own()
    assert own and own.is_gone and not own.wrong, "the same content makes the same rows"
    own = begun.own(f"cache_dir={other}")
    assert own and not own.is_gone and Path(str(own.plan.data_dir)).parents[1] == other
    edit(begun.folder / "rows.jsonl")
    own = begun.own()
    assert own and f"are gone from {cache}, and their source files have changed" in own.wrong
    with pytest.raises(ConfigError, match="prepared rows are missing"):
        make_plan(begun.asked(), None, begun.run.read_plan())


@pytest.mark.slow
def test_models_are_compared_by_content(begun: Begun):
    moved = begun.folder / "moved"
    shutil.copytree(begun.folder / "model", moved)
    own = begun.own(f"model.path={moved}")
    assert own and own.plan.model_dir == str(moved)
    config = Config.of(own.values)
    check_config(begun.run, config)
    save_model(begun.folder / "another", 2.0)
    assert begun.own(f"model.path={begun.folder / 'another'}") is None
    save_model(begun.folder / "model", 2.0)
    own = begun.own()
    assert own
    with pytest.raises(
        ConfigError, match=r"model.path=.*its files have changed since the run began. Try: the original folder"
    ):
        make_plan(begun.asked(), None, own.plan)


def test_the_model_hash_covers_weights_and_config(tmp_path: Path):
    one, two = save_model(tmp_path / "one", 1.0), save_model(tmp_path / "two", 1.0)
    assert content_hash(one) == content_hash(two)
    assert content_hash(one) != content_hash(save_model(tmp_path / "three", 1.5))
    (two / "config.json").write_text((two / "config.json").read_text().replace("512", "1024"))
    assert content_hash(one) != content_hash(two)


def test_an_incomplete_model_folder_has_no_hash(tmp_path: Path):
    folder = save_model(tmp_path / "model", 1.0)
    config = (folder / "config.json").read_text()
    for broken in ("{", None):
        (folder / "config.json").write_text(broken) if broken else (folder / "config.json").unlink()
        assert content_hash(folder) is None
    (folder / "config.json").write_text(config)
    assert content_hash(folder) is not None
    (folder / "model.safetensors.index.json").write_text("[]")
    assert content_hash(folder) is None


def test_config_errors_are_not_errors_of_the_frozen_run(tmp_path: Path):
    wrong: list[dict[str, Any]] = [{}, {"runs_dir": None, "name": 3}, {"runs_dir": str(tmp_path), "name": "none"}]
    assert [kept_rows(values) for values in wrong] == [{}, {}, {}]
