"""A sweep's jobs are ordinary runs, and an experiment may have the sweep's own keys."""

import shutil
import sys

import pytest

from distft.config import ConfigError
from distft.paths import conf_dir
from distft.sweep.jobs import make_jobs, named, words
from distft.sweep.multirun import shared_config
from distft.sweep.request import parse, read_request

EXPERIMENT = """# @package _global_
defaults:
  - override /sweep: optuna
sweep:
  trials: 3
launcher:
  jobs_at_once: 2
"""


@pytest.fixture
def shared(tmp_path, monkeypatch) -> list[str]:
    """Overrides of a sweep whose experiment says how it runs."""
    shutil.copytree(conf_dir(), tmp_path / "conf")
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(EXPERIMENT)
    monkeypatch.setattr(sys.modules["distft.config.compose"], "conf_dir", lambda: tmp_path / "conf")
    (tmp_path / "rows.jsonl").touch()
    return ["experiment=mine", f"data.train={tmp_path / 'rows.jsonl'}", "model=gpt2"]


@pytest.mark.slow
def test_an_experiment_may_configure_a_sweep(shared, tmp_path):
    [job] = make_jobs(tmp_path, read_request([*shared, "seed=0,1"]), named([("seed=1",)]))
    values = job.config.values
    assert (values["seed"], values["sweep"]["trials"], values["launcher"]["jobs_at_once"]) == (1, 3, 2)


@pytest.mark.slow
def test_it_is_not_reported_as_an_error_of_a_point(shared):
    request = read_request([*shared, "train.max_steps=0,3"])
    with pytest.raises(ConfigError) as caught:
        shared_config(request, parse(request.swept))
    assert caught.value.messages and not [each for each in caught.value.messages if "without -m" in each]


def test_a_long_name_of_a_job_is_cut():
    assert words(("data.train=" + "é" * 300,)) == "data.train_"
    assert words(("data.train=" + "x" * 300,)) == "data.train_" + "x" * 109
