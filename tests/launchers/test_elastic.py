"""What the elastic process gives its ranks."""

import os

import pytest

from distft.launchers.elastic import RankLogs, threads_per_process
from distft.run import RunFolder


@pytest.mark.parametrize(("cores", "processes", "threads"), [(8, 2, 4), (8, 3, 2), (2, 4, 1)])
def test_processes_times_threads_never_exceed_the_cores(monkeypatch, cores, processes, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert threads_per_process(processes) == threads


def test_each_rank_has_a_log_in_the_run_folder_and_an_error_file_outside(tmp_path):
    run = RunFolder(tmp_path / "run")
    envs = {0: {"RANK": "4"}, 1: {"RANK": "5"}}
    places = RankLogs(run, 2, tmp_path / "errors").reify(envs)
    assert places.stderrs == {0: str(run.rank_log(2, 4)), 1: str(run.rank_log(2, 5))}
    assert envs[1]["TORCHELASTIC_ERROR_FILE"] == str(tmp_path / "errors" / "rank-5.json")
