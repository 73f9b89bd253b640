"""Elastic processes are forked from a server that has imported everything, and end with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distft.launchers.elastic import SpawnedRank
from distft.launchers.fork_server import Forked, ForkServer
from distft.launchers.outcome import elastic_log
from distft.run import RunFolder
from tests.support.fake_run import assert_none_left, freeze, name_of, processes_of, wait_for_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> ForkServer:
    return ForkServer()


def start(server: ForkServer, run: RunFolder) -> Forked:
    arguments = [str(run.path), "--attempt", "1", "--program", "tests.support.fake_worker"]
    return server.start(arguments, elastic_log(run, 1))


def test_one_server_forks_many_with_their_own_exit_codes(tmp_path: Path, server: ForkServer):
    good, bad = freeze(tmp_path / "good"), freeze(tmp_path / "bad", bad_rank=1, bad="raise")
    first, second = start(server, good), start(server, bad)
    again, worse = first.wait(120), second.wait(120)
    assert again is not None and (again.code, again.said) == (0, "")
    assert worse is not None and worse.code == 1 and "row 7 has no label" in worse.said
    assert server._process is not None
    began = server._process.pid
    ended = start(server, freeze(tmp_path / "another")).wait(120)
    assert ended is not None and ended.code == 0 and server._process.pid == began


def test_ranks_are_forks_of_the_server(tmp_path: Path, server: ForkServer):
    run = freeze(tmp_path / "run", steps=100_000)
    forked = start(server, run)
    deadline, names = time.monotonic() + 60, {"elastic", "rank 0", "rank 1"}
    while {name_of(pid) for pid in processes_of(run)} != names:  # rank 0 may be at work before rank 1 has its name
        assert time.monotonic() < deadline, processes_of(run)
        time.sleep(0.05)
    seen = {name_of(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in processes_of(run)}
    forked.cancel(5)
    assert set(seen) == names
    assert all("distft.launchers.fork_server" in words for words in seen.values())
    assert_none_left(run)


def test_a_rank_cancelled_before_its_start_never_starts(tmp_path: Path):
    run = freeze(tmp_path / "run")
    server = ForkServer()
    forked = start(server, run)
    forked.cancel(5)
    ended = forked.wait(0)
    assert ended is not None and ended.code == -signal.SIGINT
    other = start(server, freeze(tmp_path / "other")).wait(120)
    assert other is not None and other.code == 0, "the server has come to the next request"
    assert not run.metrics.exists()
    assert_none_left(run)


def test_a_killed_server_ends_its_runs_and_is_replaced(tmp_path: Path):
    server, runs = ForkServer(), [freeze(tmp_path / name, steps=100_000) for name in ("one", "two")]
    first, second = [start(server, run) for run in runs]
    for run in runs:
        wait_for_rows(run)
    os.kill(server._process.pid, signal.SIGKILL)  # pyright: ignore[reportOptionalMemberAccess]
    assert first.wait(60) == (-signal.SIGKILL, "")
    another = start(server, freeze(tmp_path / "another"))
    assert second.wait(60) == (-signal.SIGKILL, ""), "it had the first server"
    for run in runs:
        assert_none_left(run)
    ended = another.wait(120)
    assert ended is not None and ended.code == 0


def test_a_returned_command_leaves_no_server(tmp_path: Path):
    run = freeze(tmp_path / "run")
    program = f"""if True:
        from pathlib import Path
        from distft.launchers.fork_server import ForkServer
        server = ForkServer()
        arguments = [{str(run.path)!r}, "--attempt", "1", "--program", "tests.support.fake_worker"]
        server.start(arguments, Path({str(elastic_log(run, 1))!r})).wait()
        print(server._process.pid)"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert not Path(f"/proc/{int(done.stdout)}").exists()
    assert not processes_of(run)


def test_waiting_has_a_timeout(tmp_path: Path, server: ForkServer):
    run = freeze(tmp_path / "run", steps=100_000)
    forked, began = start(server, run), time.monotonic()
    assert forked.wait(0.2) is None and time.monotonic() - began < 30
    forked.cancel(5)
    assert_none_left(run)


def test_without_fork_each_rank_is_its_own_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As on a machine with accelerators."""
    from distft.launchers import elastic

    monkeypatch.setattr(elastic, "can_fork", lambda: False)
    log = tmp_path / "rank-0.log"
    rank = elastic.start_rank("platform", ["--help"], {"RANK": "0", "OMP_NUM_THREADS": "1"}, log)
    rank.join(60)
    assert isinstance(rank, SpawnedRank) and rank.exitcode == 0 and log.read_text()
    rank = elastic.start_rank("tests.no_such_module", [], {"RANK": "0"}, log)
    assert rank.exitcode is None
    rank.join(60)
    assert rank.exitcode == 1 and "No module named tests.no_such_module" in log.read_text()
    assert sys.executable in log.read_text()
