"""A signal costs no step: all processes save once at the next step border, exit with 75, and the command continues.

The target (launcher or any rank), the signal (SIGTERM or SIGUSR1), its number and time make no difference.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from distft.config import compose
from distft.launch.stages import freeze, prepare_and_plan
from distft.run import RunFolder
from tests.launch.test_launch import end, start
from tests.support.fake_run import assert_none_left, processes_of, rank_process, wait_for_rows
from tests.support.ranks import run_ranks
from tests.support.rows import write_sums
from tests.support.warm import warm_children

pytestmark = pytest.mark.slow
STEPS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("signals"))


def frozen(folder: Path) -> Path:
    """Returns a folder of two runs on 2 processes, alike and not started, that evaluate and save often."""
    runs = folder / "runs"
    settings = ["model=gpt2", "model.tiny=true", "strategy=fsdp", f"data.train={folder}/rows.jsonl", "data.eval=0.2"]
    settings += ["train.epochs=null", f"train.max_steps={STEPS}", "train.global_batch_size=4", "eval.every_steps=3"]
    settings += ["train.micro_batch_size=2", "launcher.processes_per_node=2", "checkpoint.every_steps=4"]
    settings += [
        "checkpoint.save_best=false",
        "checkpoint.background=true",
        f"runs_dir={runs}",
        f"cache_dir={folder}/cache",
        "name=straight",
    ]
    config, run = compose(settings), RunFolder(runs / "straight")
    with warm_children():
        freeze(run, config, prepare_and_plan(run, config, settings), settings)
    shutil.copytree(run.path, runs / "cut")
    return runs


def check(found: dict[str, Any], trials: int) -> None:
    done = found["done"]
    for trial in done:
        assert trial["state"] in ("preempted", "completed"), trial
        assert trial["latest"] == trial["step"], trial
        assert trial["saved"] == sorted(set(trial["saved"])), trial
        on_time = [step for step in trial["saved"] if step % 4 and step != STEPS]
        assert on_time == ([trial["step"]] if trial["state"] == "preempted" and trial["step"] % 4 else []), trial
        assert trial["state"] == "preempted" or trial["step"] == STEPS, trial
    assert len(done) >= trials and found["ends"] and all(found["ends"]), "another result than without a signal"
    states = Counter(trial["state"] for trial in done)
    print(f"{len(done)} attempts, {len(found['ends'])} ends like the uninterrupted run's, {dict(states)}")
    assert states["preempted"] >= trials // 3


def test_runs_stopped_at_random_times_end_like_uninterrupted(folder: Path) -> None:
    check(run_ranks(2, "tests.support.interrupted", str(frozen(folder)), "4", "0"), 4)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_hundred_random_stops_end_like_uninterrupted(folder: Path) -> None:
    check(run_ranks(2, "tests.support.interrupted", str(frozen(folder)), "100", "1", seconds=1700), 100)


def steps_of(run: RunFolder) -> list[int]:
    return [row["step"] for row in run.read_metrics("train")]


@pytest.mark.parametrize(
    ("whom", "numbers"),
    [
        ("launcher", [signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM]),  # as schedulers do
        pytest.param("rank 1", [signal.SIGUSR1], marks=pytest.mark.soak),
        ("rank 1 while it starts", [signal.SIGTERM, signal.SIGUSR1]),
        # As a scheduler does that does not know the launcher.
        pytest.param("all", [signal.SIGTERM], marks=pytest.mark.soak),
    ],
    ids=["launcher", "rank", "starting rank", "all processes"],
)
def test_a_signal_saves_exits_75_and_the_same_command_continues(
    whom: str, numbers: list[signal.Signals], folder: Path
) -> None:
    name = whom.replace(" ", "-")
    run, settings = RunFolder(folder / "runs" / name), ["train.max_steps=4000", "train.max_grad_norm=null"]
    program = sys.executable if "starts" in whom else ""
    process = start(folder, name, *settings, processes=2, program=program)
    if "starts" not in whom:
        wait_for_rows(run)
    targets = {process.pid} if whom in ("launcher", "all") else {rank_process(run, 1)}
    targets |= processes_of(run) if whom == "all" else set()
    time.sleep(0.5 if "starts" in whom else 0)  # the interpreter itself; torch takes seconds more
    for number in numbers:
        for target in targets:
            os.kill(target, number)
        time.sleep(0.05)
    code, _, stderr = end(process)
    assert code == 75 and "saved and stopped" in stderr, stderr
    status, done = run.read_status(), len(steps_of(run))
    assert (status["state"], status["exit_code"], status["step"]) == ("preempted", 75, done)
    assert [path.name for path in run.checkpoints.glob("step-*")] == [f"step-{done:08d}"]
    assert_none_left(run)
    if whom == "launcher":
        goes_on(start(folder, name, *settings, processes=2), run, done)


def goes_on(process: subprocess.Popen[str], run: RunFolder, done: int) -> None:
    deadline = time.monotonic() + 60
    while len(steps_of(run)) <= done:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 75
    assert steps_of(run) == list(range(1, len(steps_of(run)) + 1))


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.soak)])
def test_a_launch_without_a_started_run_just_ends(number: signal.Signals, folder: Path) -> None:
    """While its child process prepares the data."""
    name = f"early-{number}"
    process = start(folder, name, f"cache_dir={folder}/{name}", program=sys.executable)
    deadline = time.monotonic() + 60
    while not listens(process.pid, number):
        assert time.monotonic() < deadline and process.poll() is None
    process.send_signal(number)
    code, _, stderr = end(process)
    assert code == 128 + number and "Traceback" not in stderr, stderr
    assert not RunFolder(folder / "runs" / name).status.exists()


def listens(process: int, number: int) -> bool:
    """Returns whether a process catches a signal."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
