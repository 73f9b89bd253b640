"""A sweep is what its files say now."""

import json
from pathlib import Path

import pytest

from distft.config.errors import ConfigError
from distft.report.sweep.jobs import find_sweep, read_sweep
from distft.run import RunFolder
from tests.report.conftest import train_row
from tests.report.sweep.conftest import Run, write_sweep


def test_numbers_are_those_of_the_runs_files(make_sweep):
    [job] = make_sweep([Run({"optimizer.lr": 1e-4}, losses=(2.5, 1.2, 1.6), seed=7, world=4)], ["optimizer.lr"]).jobs
    assert (job.objective, job.objective_step) == (1.2, 4)
    assert (job.seed, job.train_loss, job.peak_memory_gib, job.eval_tokens) == (7, 2.0 / 8, 3.25, 1300)
    assert job.tokens == 8 * 900
    assert job.process_hours == pytest.approx(8 * 9 * 4 / 3600)
    assert job.command == "python -m distft.launch name=00 optimizer.lr=0.0001"


def test_the_recorded_objective_is_used_and_its_step_found(make_sweep):
    recorded = [Run({}, losses=(2.5, 1.9, 1.5), objective=1.9), Run({}, losses=(2.5,), objective=1.0)]
    assert [(job.objective, job.objective_step) for job in make_sweep(recorded, []).jobs] == [(1.9, 4), (1.0, None)]


def test_losses_that_are_no_number_are_no_objective(make_sweep):
    runs = [Run({}, losses=(float("nan"), float("inf"))), Run({}, losses=(float("nan"), 2.0), objective=float("nan"))]
    first, second = make_sweep(runs, []).jobs
    assert (first.objective, first.is_ranked) == (None, False)
    assert (second.objective, second.objective_step) == (2.0, 4)


def test_a_run_that_waits_has_no_numbers(make_sweep):
    [job] = make_sweep([Run({"seed": 5}, state="pending")]).jobs
    assert (job.objective, job.train_loss, job.peak_memory_gib, job.tokens, job.seed) == (None, None, None, 0, 5)


def test_a_line_cut_off_by_a_crash_is_left_out(make_sweep, tmp_path: Path):
    make_sweep([Run({})], [])
    with RunFolder(tmp_path / "sweep" / "00").metrics.open("a") as file:
        file.write(json.dumps(train_row(9, loss=0.1))[:40])
    [job] = read_sweep(tmp_path / "sweep").jobs
    assert job.train_loss == 2.0 / 8


def test_a_folder_without_a_sweep_is_refused_with_the_nearest(tmp_path: Path):
    write_sweep(tmp_path / "rates", [Run({})])
    with pytest.raises(
        ConfigError, match=r"sweep=.*rate: not a sweep folder \(no sweep_status.json\). Did you mean .*/rates"
    ):
        find_sweep(str(tmp_path / "rate"))
    with pytest.raises(ConfigError, match=r"It is a run folder. Try: run=.*rates/00"):
        find_sweep(str(tmp_path / "rates" / "00"))


@pytest.mark.parametrize("text", ["{", '{"name": "a"}'])
def test_a_damaged_status_is_named(tmp_path: Path, text: str):
    (tmp_path / "sweep_status.json").write_text(text)
    with pytest.raises(ConfigError, match="sweep_status.json is damaged"):
        read_sweep(tmp_path)
