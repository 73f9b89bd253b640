"""Several trackers, each with its keys under its name, and the forms of older versions."""

from pathlib import Path

import pytest

from distft.config import Config, ConfigError, compose, frozen_text, read_config
from distft.config.freeze import Frozen, keys_said
from distft.run import RunFolder

OFFLINE = {"_target_": "distft.trackers.wandb.Wandb", "project": "mine", "entity": None, "mode": "offline"}
OLD = "tracker:\n  _target_: distft.trackers.wandb.Wandb\n  project: mine\n  entity: null\n  mode: offline\n"


def errors_of(right: list[str], *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose([*right, *overrides])
    return caught.value.messages


def old_text(right: list[str], tracker: str) -> str:
    """Returns a frozen config as an older version wrote it, with one tracker without a name."""
    config = compose([*right, "tracker=wandb", "tracker.project=mine", "tracker.mode=offline"])
    before, _, rest = frozen_text(config).partition("tracker:\n")
    named, _, after = rest.partition("sweep:\n")
    assert "wandb:" in named
    return f"{before}{tracker}sweep:\n{after}".replace("tracker.wandb.", "tracker.")


@pytest.mark.slow
def test_each_tracker_has_its_keys_under_its_name(right: list[str]):
    settings = ["tracker.wandb.project=mine", "tracker.prometheus.every_seconds=5"]
    config = compose([*right, "tracker=[wandb, prometheus]", *settings])
    assert config.choices["tracker"] == "[wandb,prometheus]"
    assert [name for name, _ in config.tracker.entries()] == ["wandb", "prometheus"]
    assert (config.tracker.wandb.project, config.tracker.prometheus.every_seconds) == ("mine", 5)
    assert compose([*right, "tracker=[wandb]"]).choices["tracker"] == "wandb"
    assert compose([*right, "tracker=[]"]).values["tracker"] == compose(right).values["tracker"] == {}


def test_without_a_name_a_key_is_of_the_only_tracker(right: list[str]):
    config = compose([*right, "tracker=wandb", "tracker.project=mine", "tracker.mode=offline"])
    assert config.values["tracker"] == {"wandb": OFFLINE}
    assert {"tracker.wandb.project", "tracker.wandb.mode"} <= config.given


@pytest.mark.slow
def test_a_list_reads_back_from_the_frozen_file(right: list[str], tmp_path: Path):
    config, run = compose([*right, "tracker=[wandb,tensorboard]", "tracker.wandb.project=mine"]), RunFolder(tmp_path)
    run.config.write_text(frozen_text(config))
    read = read_config(run)
    assert (read.values, read.choices, read.given) == (config.values, config.choices, config.given)
    again = compose([f"config={run.config}"])
    assert (again.values, again.choices) == (config.values, config.choices)
    assert compose([f"config={run.config}", "tracker=tensorboard"]).values["tracker"].keys() == {"tensorboard"}


@pytest.mark.parametrize(("tracker", "now"), [(OLD, {"wandb": OFFLINE}), ("tracker:\n  _target_: null\n", {})])
def test_the_tracker_of_an_older_run_gets_its_name(right: list[str], tmp_path: Path, tracker: str, now: dict):
    run, text = RunFolder(tmp_path), old_text(right, tracker)
    run.config.write_text(text)
    read = read_config(run)
    assert read.values["tracker"] == run.read_config()["tracker"] == now
    assert {"tracker.wandb.project", "tracker.wandb.mode"} <= read.given


@pytest.mark.slow
def test_the_config_of_an_older_tracked_run_begins_a_new_run(right: list[str], tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text(old_text(right, OLD))
    assert compose([f"config={file}"]).values["tracker"] == {"wandb": OFFLINE}


@pytest.mark.slow
def test_the_frozen_none_of_an_older_run_begins_a_new_run(right: list[str], tmp_path: Path):
    file, config = tmp_path / "config.yaml", compose(right)
    text = frozen_text(config)
    assert "tracker: {}\n" in text
    file.write_text(text.replace("tracker: {}\n", "tracker:\n  _target_: null\n"))
    assert compose([f"config={file}"]).values == config.values


def test_an_older_run_resumes_with_its_tracker_or_another(right: list[str]):
    text = old_text(right, OLD)
    config = compose([*right, "tracker=wandb", "tracker.project=mine", "tracker.mode=offline"])
    frozen = Frozen(Config.of(config.values).values, config.choices, keys_said(text))
    assert frozen.in_words(config) == [] and frozen.kept_by(config) == (config.values, [])
    back = compose([*right, "tracker=wandb"])
    assert frozen.kept_by(back) == (back.values, []), "what was said for it is not kept as a default"


@pytest.mark.parametrize(
    ("text", "overrides", "names"),
    [
        ("tracker: [wandb, tensorboard]\ntracker.wandb.project: mine\n", (), ["wandb", "tensorboard"]),
        ("tracker: wandb\ntracker.project: mine\n", (), ["wandb"]),
        ("tracker: {_target_: distft.trackers.wandb.Wandb, project: mine}\n", (), ["wandb"]),
        ("tracker: {wandb: {project: mine}}\n", ("tracker=[wandb,prometheus]",), ["wandb", "prometheus"]),
        ("tracker: {project: mine}\n", ("tracker=wandb",), ["wandb"]),
    ],
)
def test_a_yaml_file_names_trackers(right: list[str], tmp_path: Path, text: str, overrides: tuple, names: list[str]):
    file = tmp_path / "own.yaml"
    file.write_text(text)
    config = compose([*right, f"config={file}", *overrides])
    assert [name for name, _ in config.tracker.entries()] == names
    assert config.tracker.wandb.project == "mine"


@pytest.mark.slow
def test_all_errors_of_trackers_come_at_once(right: list[str]):
    first, second, third = errors_of(right, "tracker=[wandbb,tensorbord]", "tracker.wandb.project=x", "seed=-1")
    assert first.startswith("tracker=[wandbb,tensorbord]: wandbb is not one of ") and first.endswith(" wandb?")
    assert second.startswith("tracker=[wandbb,tensorbord]: tensorbord is ") and second.endswith(" tensorboard?")
    assert third.startswith("seed=-1")
    first, second = errors_of(right, "tracker=[tensorboard,wandb]", "tracker.project=x", "tracker.wandb.mode=onlin")
    assert first == "tracker.project=x: tracker.project is not a key. Did you mean tracker.wandb.project?"
    assert second == "tracker.wandb.mode=onlin is not online or offline. Did you mean online?"


@pytest.mark.parametrize(
    ("overrides", "end"),
    [
        (("tracker=tensorboard", "tracker.wandb.project=x"), "the tracker wandb. Try: tracker=[tensorboard,wandb]"),
        (("tracker.wandb.project=x",), "has no effect without the tracker wandb. Try: tracker=wandb"),
        (("tracker=wandb", "tracker.projct=x"), "Did you mean tracker.wandb.project?"),
        (("tracker=wandb,tensorboard",), "is not a list. Did you mean tracker=[wandb,tensorboard]?"),
        (("tracker=[none,wandb]",), "names a tracker twice, or none next to another. Try: wandb"),
    ],
)  # fmt: skip
def test_a_wrong_tracker_is_refused_with_what_to_do(right: list[str], overrides: tuple[str, ...], end: str):
    [error] = errors_of(right, *overrides)
    assert error.endswith(end)


def test_a_tracker_of_ones_own_has_a_name(right: list[str]):
    config = compose([*right, "tracker.mine._target_=torch.nn.Flatten", "tracker.mine.start_dim=2"])
    assert config.values["tracker"] == {"mine": {"_target_": "torch.nn.Flatten", "start_dim": 2}}
