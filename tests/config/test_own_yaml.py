"""A site's profile fills in launcher keys below the command line, and is checked like it."""

from pathlib import Path
from typing import Any

import pytest

from distft.config import ConfigError, compose, frozen_text

PROFILE = """\
partition: gpu
account: 0123
time: 12:00:00
memory: 0
nodes: 2-4
exclude: [n1, "n,2"]
flags: {reservation: course, exclusive: true}
modules: [cuda/12.4]
environment: module
qos: null
"""


def launcher(right: list[str], *overrides: str) -> dict[str, Any]:
    return compose([*right, "launcher=slurm", *overrides]).values["launcher"]


def errors_of(right: list[str], *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        launcher(right, *overrides)
    return caught.value.messages


def write(folder: Path, text: str) -> str:
    (folder / "my site (1).yaml").write_text(text)
    return f"launcher.profile={folder / 'my site (1).yaml'}"


def test_every_kind_of_value_arrives_as_it_was_written(right: list[str], tmp_path: Path):
    found = launcher(right, write(tmp_path, PROFILE))
    assert (found["partition"], found["time"], found["memory"], found["nodes"]) == ("gpu", "12:00:00", 0, "2-4")
    assert found["exclude"] == ["n1", "n,2"] and found["modules"] == ["cuda/12.4"] and found["qos"] is None
    assert found["flags"] == {"reservation": "course", "exclusive": True}


def test_the_command_line_wins_at_any_position(right: list[str], tmp_path: Path):
    profile = write(tmp_path, PROFILE)
    for overrides in ([profile, "launcher.partition=cpu"], ["launcher.partition=cpu", profile]):
        found = launcher(right, *overrides)
        assert (found["partition"], found["account"]) == ("cpu", "0123")


def test_an_unknown_key_names_its_file_and_a_suggestion(right: list[str], tmp_path: Path):
    profile = write(tmp_path, "partion: gpu\ncpu_per_process: 4\n")
    errors = errors_of(right, profile)
    file = profile.partition("=")[2]
    assert errors[0].startswith(f"{file}:1: launcher.partion=gpu: ")
    assert errors[0].endswith("Did you mean launcher.partition?")
    assert errors[1].startswith(f"{file}:2: launcher.cpu_per_process=4: ")
    assert errors[1].endswith("Did you mean launcher.cpus_per_process?")


def test_a_wrong_type_is_named_with_its_key(right: list[str], tmp_path: Path):
    profile = write(tmp_path, "wait: perhaps\n")
    [error] = errors_of(right, profile)
    assert error.startswith(f"{profile.partition('=')[2]}:1: launcher.wait=perhaps is not true or false. ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- partition\n", ":1: is not a mapping of launcher keys. Try: a line such as `partition: gpu`"),
        ("partition: [\n", ":2: is not YAML: "),
        ("partition: a\npartition: b\n", ":2: launcher.partition is set twice, first in line 1."),
        ("profile: other.yaml\n", ":1: launcher.profile names another profile"),
    ],
)
def test_a_file_that_is_not_a_profile_is_refused(text: str, said: str, right: list[str], tmp_path: Path):
    profile = write(tmp_path, text)
    [error] = errors_of(right, profile)
    assert error.startswith(profile.partition("=")[2] + said)


def test_a_missing_file_is_refused(right: list[str], tmp_path: Path):
    [error] = errors_of(right, f"launcher.profile={tmp_path}/none.yaml")
    assert error.startswith(f"launcher.profile={tmp_path}/none.yaml: cannot be read: ") and "No such file" in error


OWN = """\
model.tiny: true            # flat, or nested
data:
  train: rows.jsonl
  fields: {prompt: question}
optimizer: sgd
optimizer.lr: 1e-2
train:
  epochs: 3
  max_grad_norm: null
schedule: {warmup_steps: 2}
launcher: {_target_: distft.launchers.local.Local, restarts: 1}
name: 2024
"""


def own(folder: Path, text: str, name: str = "my.yaml") -> str:
    (folder / name).write_text(text)
    return f"config={name}"


@pytest.fixture
def here(tmp_path: Path, right: list[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with rows.jsonl in it."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 40)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    return caught.value.messages


@pytest.mark.parametrize("key", ["config", "experiment"])
def test_a_users_config_counts_as_typed(key: str, here: Path):
    typed = ["model.tiny=true", "data.train=rows.jsonl", "data.fields={prompt: question}", "optimizer=sgd"]
    typed += ["optimizer.lr=1e-2", "train.epochs=3", "train.max_grad_norm=null", "schedule.warmup_steps=2"]
    typed += ["launcher._target_=distft.launchers.local.Local", "launcher.restarts=1", "name=2024"]
    own(here, OWN)
    found, expected = compose([f"{key}=./my.yaml"]), compose(typed)
    assert found.values == expected.values and found.given == expected.given
    assert found.choices == expected.choices and found.choices["optimizer"] == "sgd"


@pytest.mark.slow
def test_the_command_line_wins_over_the_file_at_any_position(here: Path):
    file = own(here, OWN)
    for overrides in ([file, "train.epochs=5", "strategy=fsdp"], ["strategy=fsdp", "train.epochs=5", file]):
        found = compose(overrides)
        assert (found.values["train"]["epochs"], found.choices["strategy"]) == (5, "fsdp")


def test_a_choice_on_the_command_line_replaces_the_files_group(here: Path):
    found = compose([own(here, OWN), "optimizer=adamw"])
    assert found.choices["optimizer"] == "adamw" and found.values["optimizer"]["lr"] == 2e-5
    assert found.notes == ("my.yaml:5: optimizer=sgd and 1 more of its keys gives way to optimizer=adamw",)


def test_of_two_files_the_later_wins(here: Path):
    own(here, "seed: 7\ntrain: {epochs: 4}\n", "site.yaml")
    found = compose([own(here, OWN), "config=site.yaml"])
    assert (found.values["seed"], found.values["train"]["epochs"]) == (7, 4)


@pytest.mark.slow
def test_a_defaults_list_chooses_groups(here: Path):
    text = "# @package _global_\ndefaults:\n  - override /optimizer: sgd\n  - strategy: zero2\n  - _self_\n"
    found = compose([own(here, f"{text}model: {{tiny: true}}\ndata.train: rows.jsonl\n")])
    assert (found.choices["optimizer"], found.choices["strategy"]) == ("sgd", "zero2")


def test_all_errors_of_a_file_come_at_once_with_their_lines(here: Path):
    text = "train:\n  max_stepz: 5\n  epochs: many\noptimzer: sgd\nstrategy: zero9\nhydra: {run: x}\nseed: -1\n"
    assert refused(own(here, text), "model.tiny=true", "data.train=rows.jsonl", "sead=1") == [
        "my.yaml:5: strategy=zero9: strategy is one of ddp, fsdp, hsdp, zero1, zero2, zero3, zero3_offload. "
        "Did you mean zero1?",
        "my.yaml:2: train.max_stepz=5: train.max_stepz is not a key. Did you mean train.max_steps?",
        "my.yaml:4: optimzer=sgd: optimzer is not a key. Did you mean optimizer?",
        "my.yaml:6: hydra.run=x: Hydra's own settings have no effect here. Try: runs_dir, name or launcher",
        "sead=1: sead is not a key. Did you mean seed?",
        "my.yaml:7: seed=-1 is not a whole number of at least 0. Did you mean 0?",
        "my.yaml:3: train.epochs=many is not a number above 0, or null. The default is 1.",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "my.yaml:1: is not a mapping of keys. Try: a line such as `data.train: rows.jsonl`"),
        ("seed: 1\ntrain: {a: [\n", "my.yaml:3: is not YAML: "),
        ("seed: 1\n\tname: x\n", "my.yaml:2: is not YAML: "),
        ("train:\n  epochs: 1\ntrain.epochs: 2\n", "my.yaml:3: train.epochs is set twice, first in line 2. "),
        ("optimizer: sgd\ndefaults: [{optimizer: adamw}]\n", "my.yaml:2: optimizer is set twice, first in line 1. "),
        ("optimizer:\n", "my.yaml:1: optimizer is empty. Try: optimizer: WORD, or keys below it"),
        ("config: other.yaml\n", "my.yaml:1: config=other.yaml names another file. Try: config=my.yaml config=other."),
        ("defaults: [optimiser: sgd]\n", "my.yaml:1: an item of defaults is `GROUP: WORD`, of the groups "),
        ("seed: !!python/object:os.system 1\n", "my.yaml:1: is not YAML: could not determine a constructor"),
        ("seed: &a {b: *a}\n", "my.yaml:1: seed.b holds itself"),
        ("my key: 1\n", "my.yaml:1: the name `my key` is not a key. "),
        ("", "config=my.yaml: is empty. Try: a line such as `data.train: rows.jsonl`"),
        ("train: 5\n", "my.yaml:1: train=5: train is a group of keys. Try: train."),
    ],
    ids=repr,
)
def test_a_line_that_is_not_config_is_refused_with_its_number(text: str, said: str, here: Path):
    assert refused(own(here, text), "model.tiny=true", "data.train=rows.jsonl")[0].startswith(said)


@pytest.mark.slow
def test_a_missing_config_file_or_a_folder_is_refused(here: Path):
    own(here, OWN)
    (here / "latin.yaml").write_bytes("name: é\n".encode("latin-1"))
    (here / "run").mkdir()
    (here / "run" / "config.yaml").touch()
    assert refused("config=mine.yaml")[0].startswith(
        f"config=mine.yaml: cannot be read: No such file or directory. Did you mean {here / 'my.yaml'}?"
    )
    assert refused("config=run")[0] == "config=run: is a folder. Try: config=run/config.yaml"
    assert "is no text in UTF-8" in refused("config=latin.yaml")[0]
    assert refused("config=") == ["config=: names no file. Try: config=FILE.yaml"], "no word of what may stand in it"
    assert refused("config=[my.yaml,b.yaml]")[0].endswith(" Try: config=my.yaml config=b.yaml")
    assert refused("my.yaml")[0] == "my.yaml: has no value. Try: config=my.yaml"
    for option in ("--config-name=my", "-cn", "--config-dir=."):
        assert refused(option)[0].endswith("Try: config=FILE.yaml, a config file of your own")


@pytest.mark.slow
def test_a_runs_own_config_starts_another_run(here: Path):
    first = compose([own(here, OWN), "experiment=one_node_8gpu", "model=smollm2_135m", "strategy=zero2", "name=first"])
    (here / "frozen.yaml").write_text(frozen_text(first))
    again = compose(["config=frozen.yaml"])
    assert (again.values, again.choices, again.given) == (first.values, first.choices, first.given)
    other = compose(["config=frozen.yaml", "strategy=fsdp", "seed=5", "name=second"])
    assert (other.choices["strategy"], other.values["seed"], other.values["optimizer"]["lr"]) == ("fsdp", 5, 0.01)
    assert "stage" not in other.values["strategy"]
    [error] = refused("config=frozen.yaml", "experiment=four_nodes")
    assert "has no effect with config=frozen.yaml, which sets every key" in error


@pytest.mark.slow
def test_only_typed_values_of_a_runs_config_count_as_typed(here: Path):
    (here / "rows.jsonl").touch()
    (here / "frozen.yaml").write_text(frozen_text(compose(["model.tiny=true", "data.train=rows.jsonl", "seed=3"])))
    found = compose(["config=frozen.yaml", "train.max_steps=100"])
    assert (found.values["train"]["max_steps"], found.values["train"]["epochs"]) == (100, None)
    assert found.given == {"model.tiny", "data.train", "seed", "train.max_steps"}
