"""A run goes on from its last checkpoint after a rank has died or hung, and ends where that does not help."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from distft.run import EXIT_HANG, RunFolder
from distft.verify_resume.tensors import KINDS, last_checkpoint, measure
from tests.launchers.fake_run import assert_none_left, wait_for_rows
from tests.rows import write_sums

pytestmark = pytest.mark.slow
SAVED = ("train.max_steps=10", "checkpoint.every_steps=2", "launcher.hang_seconds=8")


@dataclass(frozen=True)
class Launched:
    """How a launch of two ranks ended, and what it left."""

    run: RunFolder
    code: int
    told: str

    @property
    def restarts(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run.path / "restarts.jsonl").read_text().splitlines()]

    @property
    def losses(self) -> list[tuple[int, float]]:
        return [(row["step"], row["loss"]) for row in self.run.read_metrics("train")]


def start(folder: Path, name: str, fault: str, *overrides: str) -> subprocess.Popen[str]:
    if not (folder / "rows.jsonl").is_file():
        write_sums(folder)
    settings = ["model=gpt2", "model.tiny=true", "data.eval=0.2", f"data.train={folder / 'rows.jsonl'}", "export=false"]
    settings += ["train.epochs=null", "train.global_batch_size=4", "train.micro_batch_size=2", "eval.at_ends=false"]
    settings += ["launcher.processes_per_node=2", f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    settings += ["launcher.program=tests.launchers.faulty_rank", f"name={name}", *overrides]
    command = [sys.executable, "-m", "distft.launch", *settings]
    return subprocess.Popen(command, env=os.environ | {"FAULT": fault}, stderr=subprocess.PIPE, text=True)


def launch(folder: Path, name: str, fault: str, *overrides: str) -> Launched:
    process = start(folder, name, fault, *overrides)
    _, told = process.communicate(timeout=240)
    return Launched(RunFolder(folder / "runs" / name), process.returncode, told)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("restarts")


def assert_same(done: Launched, straight: Launched) -> None:
    assert done.code == 0, done.told
    assert done.losses == straight.losses
    last = last_checkpoint(straight.run), last_checkpoint(done.run)
    assert [measure(*last, kind).first for kind in KINDS] == [None, None], "not a bit differs"
    assert_none_left(done.run)


def test_a_run_that_hangs_goes_on_from_its_last_checkpoint(folder: Path):
    done = launch(folder, "hangs", "lock:1:4:1", *SAVED, "launcher.restarts=1")
    assert done.code == 0, done.told
    assert [step for step, _ in done.losses] == list(range(1, 11)), "each step once"
    assert [(each["attempt"], each["from_step"], each["error"]["type"]) for each in done.restarts] == [(1, 2, "Hang")]
    assert "was not entered by rank 1 on" in done.told and "Restart 1 of 1, from step 2" in done.told
    assert_none_left(done.run)


@pytest.mark.soak
def test_a_run_that_hangs_and_then_loses_a_rank_ends_like_one_that_did_not(folder: Path):
    straight = launch(folder, "straight", "", *SAVED)
    done = launch(folder, "harmed", "lock:1:4:1,SIGKILL:0:7:2", *SAVED, "launcher.restarts=2")
    assert_same(done, straight)
    assert [(each["attempt"], each["from_step"], each["error"]["type"]) for each in done.restarts] == [
        (1, 2, "Hang"), (2, 6, "SIGKILL")
    ]  # fmt: skip


@pytest.mark.soak
def test_three_starts_without_a_checkpoint_are_the_last_and_the_reason_is_told(folder: Path):
    done = launch(folder, "loop", "exit:1:0:0", "train.max_steps=10", "launcher.restarts=9")
    assert done.code == 1 and len(done.restarts) == 2
    message = done.run.read_status()["error"]["message"]
    assert message.startswith("3 starts have brought no checkpoint after step 0, so it is not started again.")
    assert f"{done.run.logs}/attempt-1 to attempt-3" in message
    assert "The last one ended so: rank 1 on" in message and "exit code 3" in message
    assert message in done.told


@pytest.mark.soak
def test_as_many_restarts_as_were_asked_for(folder: Path):
    done = launch(folder, "once", "exit:0:0:0", "train.max_steps=10", "launcher.restarts=1")
    assert done.code == 1 and len(done.restarts) == 1
    assert done.run.read_status()["error"]["type"] == "exit code 3"
    assert "launcher.restarts=1, and so often it was started again" in done.told


@pytest.mark.soak
@pytest.mark.parametrize(
    "kind", ["sleep", "lock", "SIGSTOP", "SIGKILL", "SIGABRT", "SIGSEGV", "fault", "raise", "exit"]
)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero2", "zero3"])
def test_each_kind_of_fault_under_each_way_to_cut_a_model(kind: str, strategy: str, folder: Path):
    cut = (*SAVED, f"strategy={strategy}")
    straight = launch(folder, f"{strategy}-straight-{kind}", "", *cut)
    done = launch(folder, f"{strategy}-{kind}", f"{kind}:1:5:1", *cut, "launcher.restarts=1")
    assert_same(done, straight)
    assert [each["attempt"] for each in done.restarts] == [1]


@pytest.mark.soak
def test_without_restarts_a_hang_ends_the_run_with_its_own_code(folder: Path):
    done = launch(folder, "hung", "sleep:1:4:1", *SAVED)
    assert done.code == EXIT_HANG == done.run.read_status()["exit_code"], done.told
    assert "rank 1 on" in done.told and "in misbehave" in done.told


@pytest.mark.soak
def test_a_run_that_was_asked_to_stop_is_not_started_again(folder: Path):
    process = start(
        folder, "asked", "sleep:1:30:1", "train.max_steps=100", "launcher.hang_seconds=8", "launcher.restarts=2"
    )
    run = RunFolder(folder / "runs" / "asked")
    wait_for_rows(run)
    while [row["step"] for row in run.read_metrics("train")][-1] < 29:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    assert process.returncode == EXIT_HANG, told
    assert "Restart" not in told and not (run.path / "restarts.jsonl").exists()
