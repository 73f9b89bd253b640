"""Two machines without a scheduler: two network namespaces with addresses and host names of their own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from distft.launchers.local import Place, is_first, place_of
from distft.run import RunFolder
from tests.support.fake_run import assert_none_left, freeze, processes_of, wait_for_rows

FIRST, SECOND, PORT = "10.77.0.1", "10.77.0.2", 29555


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass(frozen=True)
class Machine:
    """A host of its own but for the disk: its name resolves nowhere."""

    name: str

    def start(self, run: RunFolder, before: str = "true") -> subprocess.Popen[str]:
        program = f"hostname {self.name}; {before}; exec {sys.executable} -m tests.support.drive_together "
        program += f"{run.path} 2 {FIRST}:{PORT}"
        inside = ["unshare", "--mount", "--uts", "bash", "-c", program]
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *inside], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


@pytest.fixture(scope="module")
def machines(require) -> Iterator[tuple[Machine, Machine]]:
    """Two hosts joined by a cable."""
    require("ip")
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    names = [f"distft-{os.getpid()}-{letter}" for letter in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable-a", "netns", names[0], "type", "veth", "peer", "name", "cable-b", "netns", names[1])
        for name, cable, address in zip(names, ("cable-a", "cable-b"), (FIRST, SECOND), strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield Machine(names[0]), Machine(names[1])
    finally:
        for name in names:
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


@pytest.fixture(autouse=True)
def nothing_goes_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ends what a failed test has left on the machines, where it would hold the port of the next."""
    yield
    if "machines" in request.fixturenames:
        for machine in request.getfixturevalue("machines"):
            there = subprocess.run(["ip", "netns", "pids", machine.name], capture_output=True, text=True, check=True)
            for pid in there.stdout.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


def ended(process: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str]:
    said, _ = process.communicate(timeout=seconds)
    return process.returncode, said


@pytest.mark.slow
def test_the_same_command_on_two_machines_is_one_run(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    """The second is typed first, and waits."""
    run = freeze(tmp_path / "run", processes=1, nodes=2, collective=True)
    second = machines[1].start(run)
    time.sleep(1)
    first = machines[0].start(run)
    assert ended(first)[0] == 0 and ended(second)[0] == 0
    assert run.read_status()["state"] == "completed" and run.read_status()["exit_code"] == 0
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 3, 4, 5]
    for rank in (0, 1):
        assert run.rank_log(1, rank).read_text().startswith(f"rank {rank} in attempt 1")


@pytest.mark.slow
def test_a_failing_rank_ends_both_machines_and_is_named_on_both(
    machines: tuple[Machine, Machine], tmp_path: Path
) -> None:
    run = freeze(tmp_path / "run", processes=1, nodes=2, steps=100_000, bad_rank=1, bad="raise")
    first, second = machines[0].start(run), machines[1].start(run)
    for process in (first, second):
        code, said = ended(process)
        assert code == 1 and f"run failed: rank 1 on {machines[1].name}: ValueError: row 7 has no label" in said, said
    assert_none_left(run)


@pytest.mark.slow
def test_a_lost_machine_ends_the_other(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    run = freeze(tmp_path / "run", processes=1, nodes=2, steps=100_000, collective=True, seconds=0.1)
    first, second = machines[0].start(run), machines[1].start(run)
    wait_for_rows(run)
    first.kill()
    code, said = ended(second)
    assert code == 1 and "failed" in said, said
    first.wait()
    assert_none_left(run, seconds=20)
    assert not processes_of(run)


@pytest.mark.slow
def test_a_missing_first_machine_is_reported(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    code, said = ended(machines[1].start(freeze(tmp_path / "run", nodes=2)))
    assert code == 2 and f"launcher.rendezvous={FIRST}:{PORT}: run the same command on the machine" in said


@pytest.mark.slow
def test_a_run_folder_that_is_not_shared_is_reported(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    run = freeze(tmp_path / "run", processes=1, nodes=2)
    first = machines[0].start(run)
    second = machines[1].start(run, before=f"mount -t tmpfs none {tmp_path}; mkdir {tmp_path}/run")
    code, said = ended(second)
    assert code == 2 and "do not share this folder" in said and "Traceback" not in said, said
    first.kill()
    first.wait()
    assert_none_left(run)


@pytest.mark.slow
def test_another_program_on_the_port_is_reported(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "tests.support.drive_together", str(run.path), "2", place]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "another program uses that port" in done.stderr, done.stderr


@pytest.mark.parametrize("text", ["node1", "node1:", ":29500", "node1:x", "node1:70000", ""])
def test_an_invalid_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not HOST:PORT. Try: .+:29500"):
        place_of(text)


def test_an_address_is_a_host_and_a_port() -> None:
    assert place_of("node1:29500") == Place("node1", 29500)
    assert place_of("[fd00::2]:29500") == Place("fd00::2", 29500) and str(Place("fd00::2", 1)) == "[fd00::2]:1"


def test_the_first_machine_owns_the_address_and_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert not is_first(Place("127.0.0.1", taken.getsockname()[1]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert is_first(Place("127.0.0.1", port)) and not is_first(Place(SECOND, port))
