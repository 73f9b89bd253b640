"""A launch that finds its run under way follows it only when it asks for the same."""

from pathlib import Path

import pytest

from distft.config import Config, ConfigError
from distft.history import check_followed
from distft.run import RunFolder
from tests.launchers.slurm.frozen import freeze


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return freeze(tmp_path / "x", "run")


def changed(run: RunFolder, group: str, key: str, value: object) -> Config:
    values = run.read_config()
    values[group][key] = value
    return Config(values, {})


def test_the_same_config_follows_and_so_does_one_that_differs_in_how_it_looks_on(run: RunFolder):
    check_followed(run, Config(run.read_config(), {}), "job 12")
    check_followed(run, changed(run, "launcher", "wait", False), "job 12")
    check_followed(run, changed(run, "launcher", "grace_seconds", 9), "job 12")
    check_followed(run, changed(run, "tracker", "_target_", "distft.trackers.wandb.Wandb"), "job 12")


@pytest.mark.parametrize(
    ("group", "key", "value", "line"),
    [
        ("optimizer", "lr", 0.5, "optimizer.lr: 2e-05 -> 0.5"),
        ("launcher", "nodes", 2, "launcher.nodes: 1 -> 2"),
        ("train", "micro_batch_size", 2, "train.micro_batch_size: 4 -> 2"),
    ],
)
def test_what_the_job_would_know_nothing_of_is_refused_with_the_difference(
    group: str, key: str, value: object, line: str, run: RunFolder
):
    with pytest.raises(ConfigError) as caught:
        check_followed(run, changed(run, group, key, value), "job 12")
    [message] = caught.value.messages
    first, *others = message.splitlines()
    assert first == f"name=run: job 12 runs it with another config. Nearest: another name, or touch {run.stop}"
    assert [other.strip() for other in others] == [line]
