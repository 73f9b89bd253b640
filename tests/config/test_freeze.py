"""A frozen config reads back unchanged, and two of them are compared by key."""

from pathlib import Path

import pytest
import yaml

from distft.config import compose, difference, frozen_text, read_config
from distft.run import RunFolder


def test_the_frozen_text_reads_back_as_the_values(right: list[str], tmp_path: Path):
    config = compose([*right, "optimizer.lr=1e-5"])
    run = RunFolder(tmp_path)
    run.config.write_text(frozen_text(config))
    assert run.read_config() == config.values
    assert "strategy=ddp" in frozen_text(config).splitlines()[0]


def test_a_plain_dump_reads_back_as_well(right: list[str]):
    values = compose(right).values
    assert yaml.safe_load(yaml.safe_dump(values)) == values


def test_every_difference_is_a_line(right: list[str]):
    old = compose(right).values
    new = compose([*right, "train.max_steps=20", "train.epochs=1", "optimizer.amsgrad=true", "data.eval=null"]).values
    assert sorted(difference(old, new)) == [
        "data.eval: 0.05 -> null",
        "optimizer.amsgrad: not set -> true",
        "train.max_steps: null -> 20",
    ]
    assert difference(new, new) == []


@pytest.mark.slow
def test_a_config_of_an_older_version_is_converted(right: list[str], tmp_path: Path):
    """Moved `_target_` names, keys that were not there yet, and keys that are gone."""
    config = compose([*right, "strategy=fsdp", "tuning=lora"])
    values = yaml.safe_load(yaml.safe_dump(config.values)) | {"export": False, "gone": 1}
    values["strategy"]["_target_"] = "distft.strategies.fully_sharded.FullySharded"
    values["tuning"]["_target_"] = "distft.models.tuning.Lora"
    values["train"]["gone"] = 2
    del values["train"]["check_replicas_every"], values["checkpoint"]["save_best"]
    run = RunFolder(tmp_path)
    run.config.write_text("# strategy=fsdp tuning=lora\n" + yaml.safe_dump(values))
    read = read_config(run)
    assert read.values == config.changed({"export.enabled": False}).values
    assert read.choices == {"strategy": "fsdp", "tuning": "lora"} and read.given == frozenset()
    plain = run.read_config()
    assert plain["strategy"]["_target_"] == config.values["strategy"]["_target_"]
    assert plain["tuning"]["_target_"] == config.values["tuning"]["_target_"]
    assert plain["export"] == {"enabled": False}


@pytest.mark.slow
def test_the_config_of_an_older_run_begins_a_new_run(right: list[str], tmp_path: Path):
    config, file = compose([*right, "strategy=fsdp"]), tmp_path / "config.yaml"
    moved = {
        "distft.strategies.fsdp.": "distft.strategies.fully_sharded.",
        "distft.models.adapters.": "distft.models.tuning.",
    }
    text = frozen_text(config)
    for new, old in moved.items():
        assert new in text
        text = text.replace(new, old)
    file.write_text(text)
    assert compose([f"config={file}"]).values == config.values


def test_a_frozen_value_that_fits_no_key_is_reported(right: list[str], tmp_path: Path):
    run = RunFolder(tmp_path)
    run.config.write_text(frozen_text(compose(right)).replace("max_grad_norm: 1.0", "max_grad_norm: -1"))
    with pytest.raises(ValueError, match=r"train.max_grad_norm=-1: "):
        read_config(run)
