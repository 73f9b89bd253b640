"""One node's part of a job: it compares the allocation with the plan, and passes signals to the ranks."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from distft.launchers.slurm.node import mismatch
from distft.run import Plan, RunFolder, write_json
from tests.support.fake_run import assert_none_left, processes_of
from tests.support.stubs import only_path, stub

AS_PLANNED = {"SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}


def plan_of(nodes: int, processes: int) -> Plan:
    numbers = {"nodes": nodes, "processes_per_node": processes, "world": nodes * processes}
    return Plan(**dict.fromkeys(Plan.__dataclass_fields__, 0) | numbers)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, None),
        ({"ROCR_VISIBLE_DEVICES": "0,1,2"}, None),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, None),
        (
            {"SLURM_STEP_NUM_NODES": "3", "SLURM_STEP_NUM_TASKS": "3"},
            "srun started 3 tasks on 3 nodes, the plan is for 2 nodes with one task each. "
            "Try: srun --nodes=2 --ntasks-per-node=1",
        ),
        (
            {"SLURM_STEP_NUM_TASKS": "8"},
            "srun started 8 tasks on 2 nodes, the plan is for 2 nodes with one task each. "
            "Try: srun --nodes=2 --ntasks-per-node=1",
        ),
        (
            {"SLURM_LOCALID": "1"},
            "two tasks of one node would both start its ranks. Try: srun --ntasks-per-node=1",
        ),
        (
            {"CUDA_VISIBLE_DEVICES": "3"},
            "1 GPUs are visible (3), the plan has 2 processes on a node. Try: --gpus-per-node=2",
        ),
        (
            {"CUDA_VISIBLE_DEVICES": ""},
            "0 GPUs are visible (), the plan has 2 processes on a node. Try: --gpus-per-node=2",
        ),
    ],
)
def test_differences_from_the_plan_are_reported_with_a_fix(given: dict[str, str], said: str | None):
    assert mismatch(plan_of(2, 2), AS_PLANNED | given) == said


def freeze(folder: Path, nodes: int) -> RunFolder:
    run = RunFolder(folder / "run")
    run.path.mkdir()
    numbers = {"nodes": nodes, "processes_per_node": 1, "world": nodes}
    write_json(run.plan, dict.fromkeys(Plan.__dataclass_fields__, 0) | numbers)
    work = {"work": "tests.launchers.slurm.works.until_stopped", "trust": ["tests."]}
    run.config.write_text(yaml.safe_dump({"train": {"deterministic": False}, **work}))
    run.write_status(state="pending", attempt=1, exit_code=None, error=None)
    return run


def start(run: RunFolder, node: int, nodes: int) -> subprocess.Popen[bytes]:
    """Starts a node's task as srun does, in a session of its own."""
    step = {"SLURM_NODEID": str(node), "SLURM_STEP_NUM_NODES": str(nodes), "SLURM_STEP_NUM_TASKS": str(nodes)}
    command = [sys.executable, "-m", "distft.launchers.slurm.node", str(run.path)]
    return subprocess.Popen(command, env=os.environ | step, start_new_session=True)


@contextmanager
def started(run: RunFolder, nodes: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Gives the tasks of all nodes once their ranks step."""
    tasks = [start(run, node, nodes) for node in range(nodes)]
    try:
        deadline = time.monotonic() + 60
        while len(list(run.path.glob("rank-*-steps"))) < nodes:
            assert time.monotonic() < deadline and all(task.poll() is None for task in tasks), logs(run)
            time.sleep(0.1)
        yield tasks
    finally:
        for task in tasks:
            task.kill()
        assert_none_left(run)


def logs(run: RunFolder) -> str:
    return "\n".join(f"{log}: {log.read_text()[-2000:]}" for log in run.logs.rglob("*.log"))


def tree(pid: int) -> list[int]:
    """Returns a process and all that it and they have started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(other for child in children for other in tree(int(child)))]


def wait_for_file(file: Path) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert time.monotonic() < deadline, file
        time.sleep(0.02)


@pytest.mark.slow
def test_slurms_signal_reaches_all_and_node_0_records_it(tmp_path: Path):
    run = freeze(tmp_path, 1)
    with started(run, 1) as [task]:
        everybody = tree(task.pid)
        assert len(everybody) >= 3, "the task, the elastic process and the rank"
        for number in (signal.SIGUSR1, signal.SIGTERM):
            for pid in everybody:
                if Path(f"/proc/{pid}").exists():
                    os.kill(pid, number)
            wait_for_file(run.stop)  # of two signals at one instant either may be the first
        assert task.wait(120) == 0, logs(run)
    assert json.loads(run.stop.read_text()) == {"attempt": 1, "reason": "SLURM sent SIGUSR1"}
    status = run.read_status()
    assert (status["state"], status["exit_code"]) == ("preempted", None), "what comes after it writes the end"


@pytest.mark.slow
def test_a_signal_to_another_node_stops_all_unrecorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    only_path(tmp_path / "programs", monkeypatch)
    stub(tmp_path / "programs", "scontrol", "echo '   NodeAddr=127.0.0.1 NodeHostName=n1'")
    run = freeze(tmp_path, 2)
    with started(run, 2) as tasks:
        for pid in tree(tasks[1].pid):
            os.kill(pid, signal.SIGUSR1)
        assert [task.wait(120) for task in tasks] == [0, 0], logs(run)
    assert not run.stop.exists() and run.read_status()["state"] == "preempted"


@pytest.mark.slow
def test_a_wrong_allocation_is_reported_to_the_jobs_end(tmp_path: Path):
    run = freeze(tmp_path, 1)
    assert start(run, 0, 2).wait(120) == 1
    error = run.read_status()["error"]
    assert error["message"].startswith("node 0 (") and "srun started 2 tasks on 2 nodes" in error["message"]
    run.write_status(state="pending", exit_code=None, error=None)
    assert start(run, 1, 2).wait(120) == 1
    assert run.read_status()["error"] is None, "status.json is node 0's"
    other = json.loads((run.logs / "attempt-1" / "node-1.error.json").read_text())
    assert other["message"].startswith("node 1 (") and not processes_of(run)
