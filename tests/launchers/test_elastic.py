"""Threads, failures and signals of the ranks under the elastic process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from distft.launchers.elastic import set_threads, threads_per_process
from tests.support.fake_run import assert_none_left, freeze


@pytest.mark.parametrize(("cores", "processes", "threads"), [(8, 2, 4), (8, 3, 2), (2, 4, 1)])
def test_processes_times_threads_never_exceed_the_cores(monkeypatch, cores, processes, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert threads_per_process(processes) == threads


def ignore_sigquit() -> None:
    """Leaves a process as `command &` in a script does."""
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)


@pytest.mark.slow
@pytest.mark.parametrize("before", [None, ignore_sigquit], ids=["by hand", "in the background of a script"])
def test_a_failure_on_one_node_ends_the_others_ranks(tmp_path, before: Callable[[], None] | None):
    run = freeze(tmp_path / "run", processes=1, nodes=2, steps=100_000, bad_rank=1, bad="raise")
    command = [sys.executable, "-m", "distft.launchers.elastic", str(run.path), "--attempt", "1", "--nodes", "2"]
    command += ["--program", "tests.support.fake_worker", "--address", "127.0.0.1"]
    nodes = [
        subprocess.Popen(
            [*command, "--node", node], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=before
        )
        for node in "01"
    ]
    try:
        said, stderr = zip(*(node.communicate(timeout=120) for node in nodes), strict=True)
    finally:
        for node in nodes:
            node.kill()
    failures = [json.loads(text) for text in said]
    assert [(each["rank"], each["message"]) for each in failures] == [(1, "row 7 has no label")] * 2
    assert f"ended with {-signal.SIGKILL}" in stderr[0], "not by a signal that leaves a core file"
    assert_none_left(run)


@pytest.mark.parametrize(("asked", "is_used"), [("2", True), ("3,1", True), ("", False), ("0", False), ("abc", False)])
def test_threads_are_as_requested_or_a_share_of_the_cores(asked: str, is_used: bool, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    set_threads(10**6)
    assert os.environ["OMP_NUM_THREADS"] == (asked if is_used else "1")
    assert (f"OMP_NUM_THREADS={asked} is not a number of threads: using 1" in capsys.readouterr().out) == (
        bool(asked) and not is_used
    )
