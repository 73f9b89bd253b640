"""A sweep's jobs are ordinary runs, and an experiment may have the sweep's own keys."""

import shutil
import sys

from distft.paths import conf_dir
from distft.sweep.jobs import make_jobs, named
from distft.sweep.request import read_request

EXPERIMENT = """# @package _global_
defaults:
  - override /sweep: optuna
sweep:
  trials: 3
launcher:
  jobs_at_once: 2
"""


def test_an_experiment_may_say_how_a_sweep_runs(tmp_path, monkeypatch):
    shutil.copytree(conf_dir(), tmp_path / "conf")
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(EXPERIMENT)
    monkeypatch.setattr(sys.modules["distft.config.compose"], "conf_dir", lambda: tmp_path / "conf")
    (tmp_path / "rows.jsonl").touch()
    request = read_request(["experiment=mine", f"data.train={tmp_path / 'rows.jsonl'}", "model=gpt2", "seed=0,1"])
    [job] = make_jobs(tmp_path, request, named([("seed=1",)]))
    values = job.config.values
    assert (values["seed"], values["sweep"]["trials"], values["launcher"]["jobs_at_once"]) == (1, 3, 2)
