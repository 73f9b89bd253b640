"""A run on this machine ends as a whole, and its first failing rank is named.

A node offers addresses that others can reach, and loopback only if it is configured.
"""

import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from distft.launchers import local
from distft.launchers.contract import Outcome
from distft.launchers.local import Local, LocalConfig, LocalRun, Unreachable, interface_of, is_own, own_addresses, reach
from distft.run import RunFolder
from tests.support.fake_run import assert_none_left, freeze, name_of, processes_of, wait_for_rows
from tests.support.ranks import free_port

FAKE = "tests.support.fake_worker"


def start(run: RunFolder, program: str = FAKE) -> LocalRun:
    return Local(LocalConfig(program=program)).submit([run.path])[0]


def end(handle: LocalRun, seconds: float = 60) -> Outcome:
    outcome = handle.wait(seconds)
    assert outcome is not None, "the run did not end"
    return outcome


@pytest.mark.slow
def test_every_rank_runs_and_prints_to_its_own_log(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run = freeze(tmp_path / "a run (1)")
    handle = start(run)
    assert end(handle) == Outcome("completed")
    assert handle.state() == run.read_status()["state"] == "completed"
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    for rank in (0, 1):
        assert run.rank_log(1, rank).read_text() == f"rank {rank} in attempt 1 with {threads} threads\n"


@pytest.mark.slow
def test_the_rank_that_raised_is_named_and_not_its_peers(tmp_path):
    run = freeze(tmp_path / "run", collective=True, bad_rank=1, bad="raise")
    error = end(start(run)).error
    assert error is not None
    assert (error["rank"], error["type"], error["message"]) == (1, "ValueError", "row 7 has no label")
    assert error["where"].rpartition(":")[0].endswith("tests/support/fake_worker.py")
    assert error["log"] == str(run.rank_log(1, 1))
    assert run.read_status()["error"] == error and run.read_status()["state"] == "failed"
    assert not processes_of(run)


@pytest.mark.slow
def test_a_killed_rank_is_named_and_not_its_peer(tmp_path):
    run = freeze(tmp_path / "run", collective=True, bad_rank=1, bad="kill")
    outcome = end(start(run))
    assert outcome.error is not None and outcome.exit_code == 1
    assert (outcome.error["rank"], outcome.error["type"]) == (1, "SIGKILL")
    assert not processes_of(run)


@pytest.mark.slow
def test_a_rank_that_just_exits_is_named_with_its_last_line(tmp_path):
    run = freeze(tmp_path / "run", steps=1000, bad_rank=1, bad="exit")
    error = end(start(run)).error
    assert error is not None and (error["rank"], error["type"]) == (1, "exit code 3")
    assert "a library gave up" in error["message"]
    assert not processes_of(run)


@pytest.mark.slow
def test_a_worker_that_cannot_be_imported_is_reported(tmp_path):
    run = freeze(tmp_path / "run", processes=1)
    error = end(start(run, program="tests.launchers.no_such_worker")).error
    assert error is not None and "No module named 'tests.launchers.no_such_worker'" in error["message"]


@pytest.mark.slow
def test_a_broken_plan_is_reported_with_the_reason(tmp_path):
    run = freeze(tmp_path / "run")
    run.plan.write_text("{}")
    error = end(start(run)).error
    assert error is not None and error["rank"] is None and "processes_per_node" in error["message"]


@pytest.mark.slow
def test_no_rank_outlives_the_elastic_process(tmp_path):
    run = freeze(tmp_path / "run", steps=100_000)
    handle = start(run)
    wait_for_rows(run)
    [elastic] = [pid for pid in processes_of(run) if name_of(pid) == "elastic"]
    os.kill(elastic, signal.SIGKILL)
    error = end(handle).error
    assert error is not None and (error["rank"], error["type"]) == (None, "SIGKILL")
    assert error["log"].endswith("elastic.log")
    assert_none_left(run)


@pytest.mark.slow
def test_cancel_ends_every_process_at_once(tmp_path):
    run = freeze(tmp_path / "run", steps=100_000)
    handle = start(run)
    wait_for_rows(run)
    handle.cancel()
    assert end(handle).state == "failed"
    assert_none_left(run)


@pytest.mark.slow
def test_runs_beyond_jobs_at_once_wait_for_their_turn(tmp_path):
    runs = [freeze(tmp_path / name, processes=1) for name in "ab"]
    first, second = Local(LocalConfig(program=FAKE)).submit([run.path for run in runs])
    assert second.state() == "pending" and not processes_of(runs[1])
    assert end(first) == Outcome("completed")
    assert second.wait(0) is None
    assert end(second) == Outcome("completed")


@pytest.mark.slow
def test_a_cancelled_run_of_the_queue_never_starts(tmp_path):
    runs = [freeze(tmp_path / name, processes=1) for name in "ab"]
    first, second = Local(LocalConfig(program=FAKE)).submit([run.path for run in runs])
    second.cancel()
    assert end(first) == Outcome("completed")
    assert end(second).state == "failed" and not runs[1].metrics.exists()


@pytest.mark.slow
def test_two_concurrent_runs_do_not_interfere(tmp_path):
    runs = [freeze(tmp_path / name, collective=True) for name in "ab"]
    handles = Local(LocalConfig(program=FAKE, jobs_at_once=2)).submit([run.path for run in runs])
    assert [end(handle) for handle in handles] == [Outcome("completed")] * 2


@pytest.mark.slow
def test_more_nodes_are_refused_with_a_fix():
    with pytest.raises(ValueError, match=r"launcher.nodes=4 .* Try: .*rendezvous=HOST:29500, or launcher=slurm"):
        Local(LocalConfig(nodes=4))


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this machine that answers on IPv4's loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_name_that_resolves_to_loopback_is_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    assert not {"127.0.0.1", "::1"} & set(own_addresses())


def test_a_configured_address_comes_first_even_loopback():
    assert own_addresses("127.0.0.1")[0] == "127.0.0.1"
    assert own_addresses("10.99.0.7", "10.99.0.8")[:2] == ["10.99.0.7", "10.99.0.8"]


def test_an_unresolvable_name_falls_back_to_interfaces(monkeypatch: pytest.MonkeyPatch):
    interfaces = [("lo", "127.0.0.1"), ("eth0", "10.1.2.3"), ("ib0", "10.9.2.3")]
    monkeypatch.setattr(local, "_of_interfaces", lambda: interfaces)
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-name.invalid")
    assert own_addresses("no-such-name.invalid") == ["10.1.2.3", "10.9.2.3"]


def test_a_link_local_address_is_not_used():
    assert not any(address.startswith(("fe80", "169.254")) for address in own_addresses())


def test_this_machine_knows_its_own_addresses_and_interfaces():
    assert is_own("localhost") and is_own("127.0.0.1")
    assert not is_own("10.99.0.7") and not is_own("no-such-name.invalid")
    assert interface_of("127.0.0.1") == "lo" and interface_of("10.99.0.7") is None
    for address in own_addresses():
        assert interface_of(address) not in (None, "lo") or not is_own(address)


def test_the_first_address_that_answers_is_used(port: int):
    assert reach(["::1", "127.0.0.1"], port, 5) == ("127.0.0.1", "127.0.0.1")


@pytest.mark.slow
def test_a_port_that_opens_late_is_reached():
    import threading

    port = free_port()

    def open_late() -> None:
        time.sleep(0.5)
        with socket.create_server(("127.0.0.1", port)) as late:
            late.accept()

    thread = threading.Thread(target=open_late)
    thread.start()
    assert reach(["127.0.0.1"], port, 10)[0] == "127.0.0.1"
    thread.join()


def test_every_address_tried_is_named_with_its_error():
    port = free_port()
    with pytest.raises(Unreachable) as caught:
        reach(["127.0.0.1", "no-such-name.invalid"], port, 0.1)
    said = str(caught.value)
    assert said.startswith("cannot reach the first node in 0 s (")
    assert f"127.0.0.1:{port}: [Errno 111] Connection refused" in said and f"no-such-name.invalid:{port}: " in said
    with pytest.raises(Unreachable, match="no address"):
        reach([], port, 0)
