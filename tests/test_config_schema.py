"""The JSON Schema accepts the files that compose, and refuses unknown keys and wrong values."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from distft.config import ConfigError, compose, frozen_text
from distft.config.key import MISSING
from distft.config.own_yaml import _Loader
from distft.config.schema import KEYS
from distft.config_schema import main, schema
from distft.paths import conf_dir

EXPERIMENTS = sorted((conf_dir() / "experiment").glob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> Any:
    found = json.loads(json.dumps(schema()))
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def read(text: str) -> Any:
    return yaml.load(text, _Loader)


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_the_shipped_experiments_are_accepted(validator: Any, file: Path):
    assert list(validator.iter_errors(read(file.read_text()))) == []


@pytest.mark.parametrize("words", ["strategy=zero3 optimizer=sgd tuning=lora", "loss=distillation schedule=wsd", ""])
@pytest.mark.slow
def test_the_config_of_a_run_is_accepted(validator: Any, words: str, tmp_path: Path):
    (tmp_path / "rows.jsonl").touch()
    more = ["tracker=[wandb,prometheus]", "loss.teacher=org/teacher"] if "distillation" in words else []
    config = compose([*words.split(), *more, "model=gpt2", "model.tiny=true", f"data.train={tmp_path}/rows.jsonl"])
    assert list(validator.iter_errors(read(frozen_text(config)))) == []


RIGHT = """
train: {max_steps: 3, micro_batch_size: auto}
train.max_steps: 5
export: false
tracker: [wandb, tensorboard]
tracker: {wandb: {project: mine}}
tracker: wandb
optimizer: {lr: 1e-5, amsgrad: true}
cache_dir: ${runs_dir}/cache
eval: {early_stopping.patience: 3}
data: {fields: {prompt: question}, train: [a.jsonl, {path: b.jsonl, weight: 2}], eval: null}
experiment: ./mine.yaml
launcher: {nodes: 2-4, time: 12:00:00}
"""
WRONG = """
trian: {max_steps: 3}
train: {max_stepz: 3}
train: {max_steps: 0}
train.max_steps: many
train: {precision: fp8}
eval: {early_stopping: {patience: 0.5}}
optimizer: adamw2
optimizer: {lr: -1}
tracker: [wandb, tensorbord]
launcher: {nodes: 4-}
data: {eval: 1.5}
experiment: no_such_word
"""


@pytest.mark.parametrize("text", RIGHT.strip().splitlines())
def test_what_can_be_written_is_accepted(validator: Any, text: str):
    assert list(validator.iter_errors(read(text))) == []


@pytest.mark.parametrize("text", WRONG.strip().splitlines())
def test_what_compose_refuses_is_refused(validator: Any, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert list(validator.iter_errors(read(text)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(text)
    (tmp_path / "rows.jsonl").touch()
    right = ["model=gpt2", "model.tiny=true", "launcher=slurm" if "launcher" in text else "seed=1"]
    with pytest.raises(ConfigError):
        compose([*right, "config=own.yaml", *(["data.train=rows.jsonl"] if "data" not in text else [])])


def test_every_key_has_its_help_and_its_default(validator: Any):
    found = validator.schema["properties"]
    for key in KEYS:
        assert found[key.path]["description"] or key.path in found
        if key.default != MISSING and key.fits(key.default) and "." in key.path:
            assert found[key.path]["default"] == json.loads(json.dumps(key.default)) and key.help
            assert validator.is_valid({key.path: found[key.path]["default"]}), key.path


@pytest.mark.slow
def test_it_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert main([f"out={tmp_path}/schema.json"]) == 0
    assert printed == json.loads((tmp_path / "schema.json").read_text()) == json.loads(json.dumps(schema()))
