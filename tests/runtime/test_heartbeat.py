"""A rank's file shows its phase to another process while it runs; without a folder nothing is written."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from distft.runtime import heartbeat, stacks
from tests.support.alone import alone


@pytest.fixture
def beating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(heartbeat, "_heart", [])
    heartbeat.begin(tmp_path, 3)
    return heartbeat.beat_file(tmp_path, 3)


def beat(file: Path) -> heartbeat.Beat:
    found = heartbeat.read(file)
    assert found is not None
    return found


def test_the_phase_of_a_rank_can_be_read_at_any_time(beating: Path):
    assert (beat(beating).pid, beat(beating).step, beat(beating).phase) == (os.getpid(), 0, "start")
    heartbeat.begin_step(1)
    assert (beat(beating).step, beat(beating).phase) == (1, "border")
    before = beat(beating).beats
    heartbeat.enter("forward")
    heartbeat.enter("forward")
    assert (beat(beating).phase, beat(beating).beats) == ("forward", before + 2), "each micro-batch is a beat"
    with heartbeat.during("checkpoint"):
        assert beat(beating).phase == "checkpoint"
    assert beat(beating).phase == "forward"


def test_phase_seconds_add_up_to_the_elapsed_time(beating: Path):
    began = time.perf_counter()
    for step in (1, 2):
        heartbeat.begin_step(step)
        with heartbeat.during("data"):
            time.sleep(0.02)
        heartbeat.enter("backward")
        time.sleep(0.03)
    heartbeat.begin_step(3)
    passed, reported = time.perf_counter() - began, beat(beating)
    no_core = reported.seconds.get("core", 0.0)  # is left out of the phase in which the thread waited for a core
    assert reported.seconds["data"] + no_core >= 0.04 and reported.seconds["backward"] + no_core >= 0.06
    assert reported.seconds["data"] + reported.seconds["backward"] <= passed
    assert 0.05 <= reported.step_seconds <= passed


def test_time_without_a_free_core_is_not_work(beating: Path):
    """It shares one core with a process that wants all of it."""
    if not Path("/proc/thread-self/schedstat").is_file():
        pytest.skip("this kernel does not report it")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        heartbeat.begin_step(1)
        heartbeat.worked()
        began = time.perf_counter()
        heartbeat.enter("forward")
        while beat(beating).seconds["core"] == 0 and time.perf_counter() - began < 60:
            sum(range(10**6))
            heartbeat.enter("forward")
        passed = time.perf_counter() - began
    finally:
        other.kill()
        other.wait()
        os.sched_setaffinity(0, cores)
    reported = beat(beating).seconds
    assert reported["core"] > 0 and reported["forward"] + reported["core"] <= passed
    assert heartbeat.worked() == [0.0, reported["forward"], 0.0, 0.0], "of each phase of WORK"


def test_waiting_for_a_collective_is_not_work(beating: Path):
    began = time.perf_counter()
    with alone(), heartbeat.counting_collectives():
        heartbeat.begin_step(1)
        heartbeat.enter("forward")
        work = dist.all_reduce(torch.ones(1), async_op=True)
        before = beat(beating).beats
        assert work is not None
        work.wait()
        assert (beat(beating).phase, beat(beating).beats) == ("forward", before + 2), "into the wait, and out of it"
        heartbeat.enter("checkpoint")
        dist.barrier()
        assert beat(beating).beats == before + 3, "what is no step is not cut up: it has a limit of its own"
    assert 0 < beat(beating).seconds["communication"] <= time.perf_counter() - began


def test_an_incomplete_heartbeat_is_none(tmp_path: Path):
    assert heartbeat.read(tmp_path / "rank-0.beat") is None
    for content in (b"", bytes(8), bytes(heartbeat._FORM.size)):
        (tmp_path / "rank-0.beat").write_bytes(content)
        assert heartbeat.read(tmp_path / "rank-0.beat") is None


def test_without_a_watchdog_no_heartbeat_is_written(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(heartbeat, "_heart", [])
    heartbeat.begin_step(1)
    with heartbeat.during("checkpoint"):
        heartbeat.enter("forward")


@pytest.mark.slow
def test_a_process_that_holds_the_gil_still_dumps_its_stack(tmp_path: Path):
    program = "import sys; from pathlib import Path; from distft.runtime import stacks\n"
    program += f"stacks.answer(Path({str(tmp_path / 's')!r}))\n"
    program += "def stuck():\n    print('ready', flush=True)\n    sum(iter(int, 1))\nstuck()"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        said = stacks.ask({process.pid: tmp_path / "s"})[process.pid]
    finally:
        process.kill()
        process.communicate()
    assert [frame.partition(" in ")[2] for frame in stacks.main_thread(said)] == ["<module>", "stuck"]
    assert stacks.ask({process.pid: tmp_path / "s"}) == {process.pid: ""}, "one that is gone says nothing"
