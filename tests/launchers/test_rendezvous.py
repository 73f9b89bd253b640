"""Nodes connect to the first node's store, share the first failure, and leave in order; missing ones are reported."""

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from distft.launchers import rendezvous as module
from distft.launchers.rendezvous import (
    Node,
    Rendezvous,
    RendezvousError,
    join,
    join_at,
    open_alone,
    open_first,
    rendezvous_file,
)
from distft.run import RunFolder, read_json, write_json
from distft.runtime.errors import Failure


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_TO_MEET", 2.0)
    monkeypatch.setattr(module, "_SECONDS_TO_REACH", 0.5)
    monkeypatch.setattr(module, "_SECONDS_TO_PART", 1.5)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def apart() -> Iterator[Callable[..., "multiprocessing.Process"]]:
    """Starts a function in a process of its own, as another node's elastic process is; it ends with the test."""
    started = []
    context = multiprocessing.get_context("fork")

    def start(function: Callable[..., None], *arguments: object) -> multiprocessing.Process:
        process = context.Process(target=function, args=arguments, daemon=True)
        process.start()
        started.append(process)
        return process  # pyright: ignore[reportReturnType]

    yield start
    for process in started:
        process.kill()
        process.join()


def meet(run: RunFolder, count: int = 2) -> list[Rendezvous]:
    """Returns the meeting as each of `count` nodes sees it."""
    with ThreadPoolExecutor() as pool:
        first = pool.submit(open_first, run, 3, count, "127.0.0.1")
        others = [pool.submit(join, run, 3, Node(index, count)) for index in range(1, count)]
        return [first.result(20), *(other.result(20) for other in others)]


def failure(rank: int) -> Failure:
    return Failure(rank, f"n{rank}", "ValueError", f"row of rank {rank}")


def test_nodes_find_the_first_node_by_the_run_folder(run: RunFolder):
    first, second, third = meet(run, 3)
    place = read_json(rendezvous_file(run, 3))
    assert place["port"] == first.port == second.port == third.port and place["addresses"][0] == "127.0.0.1"
    assert [each.node for each in (first, second, third)] == [Node(0, 3), Node(1, 3), Node(2, 3)]
    assert second.address == "127.0.0.1" and {each.interface for each in (first, second, third)} == {"lo"}
    assert first.attempt == third.attempt == 3


def test_a_run_on_one_machine_needs_no_rendezvous(run: RunFolder):
    alone = open_alone(1)
    assert alone.node == Node(0, 1) and alone.reported_failure() is None and not run.path.exists()
    alone.leave()


def test_the_first_reported_failure_is_shared_by_all(run: RunFolder):
    nodes = meet(run, 3)
    assert [node.reported_failure() for node in nodes] == [None] * 3
    nodes[2].report_failure(failure(2))
    nodes[0].report_failure(failure(0))
    nodes[1].report_failure(failure(1))
    assert [node.reported_failure() for node in nodes] == [failure(2)] * 3


@pytest.mark.slow
def test_a_node_learns_once_of_anothers_failure(run: RunFolder):
    first, second = meet(run)
    heard: list[float] = []
    with first.watched(lambda: heard.append(time.monotonic())):
        time.sleep(1)
        assert not heard
        reported = time.monotonic()
        second.report_failure(failure(1))
        while not heard and time.monotonic() < reported + 60:
            time.sleep(0.01)
        time.sleep(1)
    assert len(heard) == 1


@pytest.mark.slow
def test_failures_after_the_ranks_ended_are_ignored(run: RunFolder):
    first, second = meet(run)
    heard: list[None] = []
    with first.watched(lambda: heard.append(None)):
        pass
    second.report_failure(failure(1))
    time.sleep(1)
    assert not heard and threading.active_count() < 20


def hold_first(path: str) -> None:
    meeting = open_first(RunFolder(Path(path)), 3, 2, "127.0.0.1")  # the store lives as long as this does
    time.sleep(60)
    meeting.leave()


@pytest.mark.slow
def test_a_lost_first_node_is_a_failure(run: RunFolder, apart: Callable):
    process = apart(hold_first, str(run.path))
    second = join(run, 3, Node(1, 2))
    heard = threading.Event()
    with second.watched(heard.set):
        assert not heard.wait(1)
        process.kill()
        assert heard.wait(60)
    assert second.reported_failure() is None
    second.report_failure(failure(1))
    second.leave()


@pytest.mark.slow
def test_a_missing_node_is_counted_and_the_address_shown(run: RunFolder):
    with pytest.raises(RendezvousError) as caught:
        open_first(run, 3, 3, "127.0.0.1")
    said = str(caught.value)
    assert said.startswith("1 of 3 nodes joined within 2 s. The others read the address of this node from ")
    assert f"{rendezvous_file(run, 3)}: 127.0.0.1, " in said.replace(" port ", ", ")


@pytest.mark.slow
def test_a_first_node_that_never_writes_is_reported(run: RunFolder):
    with pytest.raises(RendezvousError) as caught:
        join(run, 3, Node(1, 2))
    assert str(caught.value) == (
        f"the first node has not written {rendezvous_file(run, 3)} in 2 s. Did it start? Is the disk shared?"
    )


@pytest.mark.slow
def test_addresses_without_answer_are_named(run: RunFolder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"attempt": 3, "addresses": ["127.0.0.1", "::1"], "port": port, "number": "x"}
    write_json(rendezvous_file(run, 3), place)
    with pytest.raises(RendezvousError) as caught:
        join(run, 3, Node(1, 2))
    said = str(caught.value)
    assert f"127.0.0.1:{port}: [Errno 111] Connection refused" in said and f"::1:{port}: " in said


@pytest.mark.slow
@pytest.mark.parametrize("there", ["nothing", "another"])
def test_another_run_folder_than_the_first_nodes_is_reported(there: str, run: RunFolder, tmp_path: Path):
    other = RunFolder(tmp_path / "other" / "run")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(open_first, run, 3, 2, "127.0.0.1")
        while not rendezvous_file(run, 3).is_file():
            time.sleep(0.01)
        place = read_json(rendezvous_file(run, 3))
        if there == "another":
            write_json(rendezvous_file(other, 3), place | {"number": "of another time"})
        with pytest.raises(RendezvousError) as caught:
            join_at(other, "127.0.0.1", place["port"], 2)
        assert str(caught.value) == (
            f"127.0.0.1:{place['port']} answers, but {rendezvous_file(other, 3)} differs from what it wrote: "
            "the nodes do not share the run folder. Try: runs_dir on a disk that all nodes mount at the same path"
        )
        with pytest.raises(RendezvousError, match="1 of 2 nodes joined"):
            first.result(10)


def test_machines_joining_by_address_are_counted(run: RunFolder):
    with ThreadPoolExecutor() as pool:
        first = pool.submit(open_first, run, 3, 2, "127.0.0.1")
        while not rendezvous_file(run, 3).is_file():
            time.sleep(0.01)
        port = read_json(rendezvous_file(run, 3))["port"]
        second = join_at(run, "127.0.0.1", port, 2)
        assert second.node == Node(1, 2) and second.attempt == first.result(10).attempt == 3
        with pytest.raises(RendezvousError, match=r"launcher.nodes=2, and 2 nodes have already joined. Try: .*nodes=3"):
            join_at(run, "127.0.0.1", port, 2)


def test_a_port_in_use_is_reported(run: RunFolder):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RendezvousError, match=rf"port {port} of this machine is taken: .* Try: another port"):
            open_first(run, 3, 2, "127.0.0.1", port)


@pytest.mark.slow
def test_a_program_that_is_not_a_store_is_refused(run: RunFolder):
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(RendezvousError):
        join_at(run, "127.0.0.1", silent.getsockname()[1], 2)
    for asking in set(threading.enumerate()) - before:
        asking.join()  # the store warns when the port closes: here, and not among the dots of later tests


def test_a_machine_without_an_address_gets_a_fix(run: RunFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "own_addresses", lambda *_: [])
    with pytest.raises(RendezvousError, match=r"no address that others could reach: .* Try: NodeAddr in slurm.conf"):
        open_first(run, 3, 2)


@pytest.mark.slow
def test_the_first_node_leaves_last(run: RunFolder):
    first, second = meet(run)
    order: list[str] = []

    def part_first() -> None:
        first.leave()
        order.append("first")

    thread = threading.Thread(target=part_first)
    thread.start()
    time.sleep(0.5)
    assert order == []
    second.leave()
    order.append("second")
    thread.join(60)
    assert order[-1] == "first" or order == ["first", "second"]
    assert not thread.is_alive()


@pytest.mark.slow
def test_a_lost_node_delays_the_first_up_to_the_timeout(run: RunFolder):
    first, _ = meet(run)
    begun = time.monotonic()
    first.leave()
    assert 1 < time.monotonic() - begun < 60


def test_the_rendezvous_file_is_plain_and_new_each_time(run: RunFolder):
    numbers = set()
    for _ in range(2):
        meet(run)
        assert os.listdir(run.logs / "attempt-3") == ["rendezvous.json"]
        numbers.add(json.loads(rendezvous_file(run, 3).read_text())["number"])
        rendezvous_file(run, 3).unlink()  # an attempt has one meeting
    assert len(numbers) == 2


def wait_for_nodes(run: RunFolder, ended: Path) -> None:
    """Waits for a second node that never joins; a signal ends the wait."""
    module.SECONDS_TO_MEET = 600.0

    def end(number: int, _: object) -> None:
        ended.write_text(signal.Signals(number).name)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    open_first(run, 3, 2)


@pytest.mark.slow
def test_a_signal_ends_the_wait_for_nodes(run: RunFolder, apart: Callable, tmp_path: Path):
    process = apart(wait_for_nodes, run, tmp_path / "ended")
    while not rendezvous_file(run, 3).is_file():
        time.sleep(0.05)
    time.sleep(1.5)  # it waits inside a request to its store
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert (tmp_path / "ended").read_text() == "SIGTERM" and process.exitcode == 0
