"""A launch continues a run as it was frozen, and follows a running one only with the same config."""

from pathlib import Path

import pytest
import yaml

from distft.config import Config, ConfigError, compose, frozen_text
from distft.launch.history import check_config, check_followed, check_model, frozen_before, keep_frozen
from distft.launch.stages import launch_command
from distft.run import RunFolder
from tests.support.slurm_run import freeze


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return freeze(tmp_path / "x", "run")


def changed(run: RunFolder, group: str, key: str, value: object) -> Config:
    values = run.read_config()
    values[group][key] = value
    return Config.of(values)


def test_observation_keys_may_change_while_a_job_runs(run: RunFolder):
    check_followed(run, Config.of(run.read_config()), "job 12")
    check_followed(run, changed(run, "launcher", "wait", False), "job 12")
    check_followed(run, changed(run, "launcher", "grace_seconds", 9), "job 12")
    check_followed(run, changed(run, "tracker", "wandb", {"_target_": "distft.trackers.wandb.Wandb"}), "job 12")


@pytest.mark.parametrize(
    ("group", "key", "value", "line"),
    [
        ("optimizer", "lr", 0.5, "optimizer.lr: 2e-05 -> 0.5"),
        ("launcher", "nodes", 2, "launcher.nodes: 1 -> 2"),
        ("train", "micro_batch_size", 2, "train.micro_batch_size: 4 -> 2"),
    ],
)
def test_changes_that_a_running_job_ignores_are_refused(group: str, key: str, value: object, line: str, run: RunFolder):
    with pytest.raises(ConfigError) as caught:
        check_followed(run, changed(run, group, key, value), "job 12")
    [message] = caught.value.messages
    first, *others = message.splitlines()
    assert first == f"name=run: job 12 runs it with a different config. Try: another name, or touch {run.stop}"
    assert [other.strip() for other in others] == [line]


def frozen_with(tmp_path: Path, *typed: str, **defaults: object) -> tuple[RunFolder, list[str]]:
    """Returns a run as an older version froze it, of other `defaults` (group__key), and the overrides typed for it."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n' * 40)
    overrides = ["model.tiny=true", f"data.train={rows}", f"runs_dir={tmp_path}", "name=old", *typed]
    config = compose(overrides)
    for key, value in defaults.items():
        group, _, name = key.partition("__")
        config.values[group][name] = value
    run = RunFolder(tmp_path / "old")
    run.path.mkdir()
    run.config.write_text(frozen_text(config))
    run.command.write_text(launch_command(overrides) + "\n")
    return run, overrides


def test_a_default_that_has_changed_since_keeps_its_frozen_value(tmp_path: Path):
    run, overrides = frozen_with(tmp_path, data__packing=False, optimizer__lr=0.125)
    config, lines = keep_frozen(run, compose(overrides))
    assert config.values["data"]["packing"] is False and config.values["optimizer"]["lr"] == 0.125
    assert lines == ["data.packing: false (default now true)", "optimizer.lr: 0.125 (default now 2e-05)"]
    check_config(run, config)
    check_followed(run, config, "job 12")


@pytest.mark.slow
def test_values_typed_now_or_before_are_compared(tmp_path: Path):
    run, overrides = frozen_with(tmp_path, "seed=3", optimizer__lr=0.125)
    for asked in ([*overrides, "optimizer.lr=0.5"], [each for each in overrides if each != "seed=3"]):
        config, _ = keep_frozen(run, compose(asked))
        with pytest.raises(ConfigError, match="was made with another config"):
            check_config(run, config)
    config, lines = keep_frozen(run, compose([*overrides, "optimizer=sgd"]))
    assert not any(line.startswith("optimizer") for line in lines), "another word has its own defaults"


def test_a_typed_size_decides_packing_of_an_older_run(tmp_path: Path):
    run, overrides = frozen_with(tmp_path, "train.micro_batch_size=2")
    without = [each for each in overrides if each != "train.micro_batch_size=2"]
    assert keep_frozen(run, compose(without))[0].values["data"]["packing"] is True


@pytest.mark.slow
def test_a_key_unknown_to_an_older_version_is_not_a_change(tmp_path: Path):
    run, overrides = frozen_with(tmp_path)
    values = run.read_config()
    del values["train"]["max_grad_norm"]
    values["train"]["gone"] = 1
    head = run.config.read_text().partition("\n")[0]
    run.config.write_text(f"{head}\n{yaml.safe_dump(values)}")
    config, lines = keep_frozen(run, compose(overrides))
    assert lines == [] and config.values["train"]["max_grad_norm"] == 1.0
    check_config(run, config)
    with pytest.raises(ConfigError, match="train.max_grad_norm: 1.0 -> 2"):
        check_config(run, keep_frozen(run, compose([*overrides, "train.max_grad_norm=2"]))[0])


@pytest.mark.slow
@pytest.mark.parametrize("exports", [True, False])
def test_an_older_runs_export_flag_is_converted(exports: bool, tmp_path: Path):
    run, overrides = frozen_with(tmp_path, *([] if exports else ["export=false"]))
    head, _, text = run.config.read_text().partition("\n")
    run.config.write_text(f"{head}\n{yaml.safe_dump(yaml.safe_load(text) | {'export': exports})}")
    assert run.read_config()["export"] == {"enabled": exports}
    config, lines = keep_frozen(run, compose(overrides))
    assert lines == [] and config.values["export"]["enabled"] is exports and config.values["export"]["at"] == "best"
    check_config(run, config)
    check_followed(run, config, "job 12")


def test_kept_values_must_fit_the_requested_ones(tmp_path: Path):
    run, overrides = frozen_with(tmp_path, "train.global_batch_size=6", data__packing=False)
    with pytest.raises(ConfigError, match=r"is not a multiple of 4[\s\S]* keeps its frozen values. Try: give"):
        keep_frozen(run, compose(overrides))
    keep_frozen(run, compose([*overrides, "data.packing=true"]))


def test_without_a_recorded_command_every_difference_counts(tmp_path: Path):
    run, overrides = frozen_with(tmp_path, optimizer__lr=0.125)
    run.command.unlink()
    head, _, rest = run.config.read_text().split("\n", 2)
    run.config.write_text(f"{head}\n{rest}")  # as of a version that did not write what was said
    with pytest.raises(ConfigError, match="optimizer.lr: 0.125 -> 2e-05"):
        check_config(run, keep_frozen(run, compose(overrides))[0])


@pytest.mark.slow
def test_a_default_length_is_kept_until_more_steps_are_typed(tmp_path: Path):
    run, overrides = frozen_with(tmp_path, "train.max_steps=6", train__epochs=1)  # as of a version before
    same = keep_frozen(run, compose(overrides))
    assert same[1] == ["train.epochs: 1 (default now null)"]
    check_config(run, same[0])
    more = [each for each in overrides if not each.startswith("train.max_steps")] + ["train.max_steps=20"]
    longer, lines = keep_frozen(run, compose(more))
    assert lines == [] and (longer.values["train"]["max_steps"], longer.values["train"]["epochs"]) == (20, None)
    with pytest.raises(ConfigError) as caught:
        check_config(run, longer)
    assert str(caught.value).endswith(
        "or checkpoint.allow_change=[train.max_steps]\n    train.max_steps: 6 -> 20\n    train.epochs: 1 -> null"
    )
    check_config(run, keep_frozen(run, compose([*more, "checkpoint.allow_change=[train.max_steps]"]))[0])


def test_a_dropped_max_steps_shows_both_lengths(tmp_path: Path):
    run, overrides = frozen_with(tmp_path, "train.max_steps=6")
    config, lines = keep_frozen(run, compose([each for each in overrides if not each.startswith("train.max_steps")]))
    with pytest.raises(ConfigError, match=r"train.max_steps: 6 -> null\n    train.epochs: null -> 1"):
        check_config(run, config)
    assert lines == []


@pytest.mark.slow
def test_a_difference_names_the_group_choices(tmp_path: Path):
    run, overrides = frozen_with(tmp_path, "strategy=zero2")
    before = frozen_before(run, now := compose([*overrides, "strategy=fsdp", "optimizer=sgd"]))
    assert before is not None
    lines = before.in_words(now)
    assert lines[:2] == ["optimizer: adamw -> sgd", "strategy: zero2 -> fsdp"]
    assert {line.partition(":")[0] for line in lines[2:]} == {"optimizer.lr"}
    with pytest.raises(ConfigError, match=r"or checkpoint.allow_change=\[optimizer\]\n    optimizer: adamw -> sgd"):
        check_config(run, now)


def test_a_foreign_checkpoint_is_described_by_its_own_run(tmp_path: Path):
    run, overrides = frozen_with(tmp_path)
    checkpoint = run.checkpoints / "step-00000002"
    checkpoint.mkdir(parents=True)
    asked = compose([*overrides, "name=new", f"checkpoint.resume={checkpoint}", "optimizer.lr=0.5"])
    with pytest.raises(ConfigError) as caught:
        check_config(RunFolder(tmp_path / "new"), asked)
    [message] = caught.value.messages
    assert message.splitlines()[0] == (
        f"checkpoint.resume={checkpoint}: it is of {run.path}, which was made with another config. "
        "Try: the settings of that run, or checkpoint.allow_change=[optimizer.lr]"
    )


def test_a_checkpoint_of_another_model_is_refused_early(run: RunFolder):
    plan, manifest = run.read_plan(), {"tensors": {"parameter": {"a": [2, 3], "b": [4]}}}
    check_model(plan, run, Config.of(run.read_config()), manifest)
    other = changed(run, "model", "tiny_architecture", {"hidden_size": 8})
    with pytest.raises(
        ConfigError, match=rf"trains {plan.parameters:,} parameters, the checkpoint of .*/run holds 10: "
    ):
        check_model(plan, run, other, manifest)
    check_model(plan, run, other, {"tensors": {"parameter": {"a": [plan.parameters]}}})
