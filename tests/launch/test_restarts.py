"""A run restarts from its last checkpoint after a rank died or hung, up to a limit."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from distft.goodput import read_timeline
from distft.run import EXIT_HANG, RunFolder, read_json
from distft.verify_resume.compare import KINDS, last_checkpoint, measure
from tests.support.fake_run import assert_none_left, wait_for_rows
from tests.support.rows import write_sums
from tests.support.warm import python

pytestmark = pytest.mark.slow
SAVED = ("train.max_steps=10", "checkpoint.every_steps=2", "launcher.hang_seconds=8")


@dataclass(frozen=True)
class Launched:
    """How a launch of two ranks ended, and what it left."""

    run: RunFolder
    code: int
    stderr: str
    seconds: float = 0.0

    @property
    def restarts(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run.path / "restarts.jsonl").read_text().splitlines()]

    @property
    def losses(self) -> list[tuple[int, float]]:
        return [(row["step"], row["loss"]) for row in self.run.read_metrics("train")]


def start(folder: Path, name: str, fault: str, *overrides: str, slow: str = "") -> subprocess.Popen[str]:
    if not (folder / "rows.jsonl").is_file():
        write_sums(folder)
    settings = ["model=gpt2", "model.tiny=true", "data.eval=0.2", f"data.train={folder / 'rows.jsonl'}", "export=false"]
    settings += ["train.epochs=null", "train.global_batch_size=4", "train.micro_batch_size=2", "eval.at_ends=false"]
    settings += ["launcher.processes_per_node=2", f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    program = "slow_rank" if slow else "faulty_rank"
    settings += [f"launcher.program=tests.support.{program}", f"name={name}", *overrides]
    command = [python(), "-m", "distft.launch", *settings]
    return subprocess.Popen(command, env=os.environ | {"FAULT": fault, "SLOW": slow}, stderr=subprocess.PIPE, text=True)


def launch(folder: Path, name: str, fault: str, *overrides: str, slow: str = "") -> Launched:
    process = start(folder, name, fault, *overrides, slow=slow)
    _, stderr = process.communicate(timeout=480)
    return Launched(RunFolder(folder / "runs" / name), process.returncode, stderr)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("restarts")


def shown_of(run: RunFolder) -> str:
    command = [python(), "-m", "distft.runs", "show", f"run={run.path}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def assert_same(done: Launched, straight: Launched) -> None:
    assert done.code == 0, done.stderr
    assert done.losses == straight.losses
    last = last_checkpoint(straight.run), last_checkpoint(done.run)
    assert [measure(*last, kind).first for kind in KINDS] == [None, None], "not a bit differs"
    assert_none_left(done.run)


@pytest.fixture(scope="module")
def hung(folder: Path) -> Launched:
    """A run of 44 steps whose rank 1 is slow, and hangs in step 27; step 24 is saved, while the deletion of an older
    checkpoint lasts. Its second attempt is healthy, and early stopping ends it: only the first evaluation, of step 12,
    was better by enough."""
    settings = ("train.max_steps=44", "checkpoint.every_steps=8", "launcher.hang_seconds=8", "launcher.restarts=1")
    began = time.monotonic()
    done = launch(
        folder,
        "hangs",
        "lock:1:27:1",
        *settings,
        "strategy=fsdp",
        "eval.every_steps=12",
        "eval.early_stopping.patience=2",
        "eval.early_stopping.min_delta=9",
        slow="forward:1:0.1:1,delete:0:60:1",
    )
    return replace(done, seconds=time.monotonic() - began)


def test_a_hanging_run_continues_from_its_last_checkpoint(hung: Launched):
    assert hung.code == 0, hung.stderr
    assert [step for step, _ in hung.losses] == list(range(1, 37)), "each step once"
    status = hung.run.read_status()
    assert (status["state"], status["step"]) == ("stopped_early", 36), "as if it had not been cut"
    assert status["best"]["step"] == 36 and (hung.run.checkpoints / "best").readlink().name == "step-00000036"
    assert [(each["attempt"], each["from_step"], each["error"]["type"]) for each in hung.restarts] == [(1, 24, "Hang")]
    assert "was not entered by rank 1 on" in hung.stderr and "Restart 1 of 1, from step 24" in hung.stderr
    assert "(launcher.hang_seconds=8" in hung.stderr, "by the limit that was typed"
    assert_none_left(hung.run)


def test_a_slow_deletion_blocks_neither_steps_nor_saves(hung: Launched):
    """It is under way from step 16 or 24 on, longer than launcher.hang_seconds, and what hangs is rank 1."""
    began = re.findall(r"deleting from (\S+)", hung.run.rank_log(1, 0).read_text())[0]
    later = [row["step"] for row in hung.run.read_metrics("train") if row["time"] > float(began)]
    assert later[0] <= 24 and hung.restarts[0]["from_step"] == 24, "steps and a save went on"
    assert not list(hung.run.checkpoints.glob(".*")), "the next attempt has deleted what was left"


def test_every_second_of_a_run_is_accounted_for(hung: Launched):
    account, seconds = read_json(hung.run.goodput), read_json(hung.run.goodput)["seconds"]
    turns = read_timeline(hung.run)
    assert [turn.event for turn in turns] == [
        "submitted", "begun", "training", "ended", "begun", "training", "trained", "saved", "ended"
    ]  # fmt: skip
    assert sum(seconds.values()) == pytest.approx(turns[-1].time - turns[0].time, rel=0.01)
    assert sum(seconds.values()) == account["wall_seconds"] <= hung.seconds
    assert (account["lost_steps"], account["failures"]) == (2, 1), "steps 25 and 26"
    assert account["saves"] == 6, "8 to 32, the best of step 12, and the end"
    rows = list(hung.run.read_metrics("train"))
    waits = sum(row["phases"].get("data", 0.0) + row["phases"].get("checkpoint", 0.0) for row in rows)
    assert seconds["productive"] == pytest.approx(sum(row["seconds"] for row in rows) - waits, rel=0.01)
    assert seconds["detection"] >= 8, "launcher.hang_seconds"
    assert seconds["idle"] == 0 and min(seconds[part] for part in ("start", "checkpoint", "evaluation", "lost")) > 0
    assert account["best_every_steps"] >= 1 and account["goodput"] == seconds["productive"] / account["wall_seconds"]


def test_only_a_slow_rank_is_named_once_with_its_phase(hung: Launched):
    [warning] = hung.run.read_metrics("warning")
    assert warning["step"] <= 24, "within 20 steps of the first that counts"
    assert re.match(r"rank 1 on \S+ is slow in forward: 0\.1\S* s a step of its own", warning["text"])
    assert f"warning: {warning['text']}" in hung.stderr and hung.run.read_status()["warning"] == warning["text"]


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "world"), [("twice", 2), ("twice", 4), ("data", 2), ("data", 4)])
def test_a_rank_slowed_twofold_is_named_within_20_steps(kind: str, world: int, folder: Path):
    sizes = (f"launcher.processes_per_node={world}", f"train.global_batch_size={2 * world}", "strategy=fsdp")
    phase = "data" if kind == "data" else "forward"
    done = launch(folder, f"{kind}-{world}", "", "train.max_steps=23", *sizes, slow=f"{kind}:1:0.03:1")
    [warning] = done.run.read_metrics("warning")
    assert warning["text"].startswith("rank 1 on ") and f"is slow in {phase}" in warning["text"], warning
    assert f"slowest rank │ 1 on {socket.gethostname()}: {phase}" in " ".join(shown_of(done.run).split())


@pytest.mark.soak
def test_a_hang_and_a_lost_rank_do_not_change_the_result(folder: Path):
    straight = launch(folder, "straight", "", *SAVED)
    done = launch(folder, "harmed", "lock:1:4:1,SIGKILL:0:7:2", *SAVED, "launcher.restarts=2")
    assert_same(done, straight)
    assert [(each["attempt"], each["from_step"], each["error"]["type"]) for each in done.restarts] == [
        (1, 2, "Hang"), (2, 6, "SIGKILL")
    ]  # fmt: skip


@pytest.mark.soak
def test_a_crash_loop_ends_with_its_reason(folder: Path):
    done = launch(folder, "loop", "exit:1:0:0", "train.max_steps=10", "launcher.restarts=9")
    assert done.code == 1 and len(done.restarts) == 2
    message = done.run.read_status()["error"]["message"]
    assert message.startswith("3 starts made no checkpoint after step 0, so the run is not restarted.")
    assert f"{done.run.logs}/attempt-1 to attempt-3" in message
    assert "The last one ended so: rank 1 on" in message and "exit code 3" in message
    assert message in done.stderr


@pytest.mark.soak
def test_launcher_restarts_limits_the_restarts(folder: Path):
    done = launch(folder, "once", "exit:0:0:0", "train.max_steps=10", "launcher.restarts=1")
    assert done.code == 1 and len(done.restarts) == 1
    assert done.run.read_status()["error"]["type"] == "exit code 3"
    assert "launcher.restarts=1, and the limit is reached" in done.stderr


@pytest.mark.soak
@pytest.mark.parametrize(
    "kind", ["sleep", "lock", "SIGSTOP", "SIGKILL", "SIGABRT", "SIGSEGV", "fault", "raise", "exit"]
)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero2", "zero3"])
def test_each_fault_recovers_under_each_strategy(kind: str, strategy: str, folder: Path):
    cut = (*SAVED, f"strategy={strategy}")
    straight = launch(folder, f"{strategy}-straight-{kind}", "", *cut)
    done = launch(folder, f"{strategy}-{kind}", f"{kind}:1:5:1", *cut, "launcher.restarts=1")
    assert_same(done, straight)
    assert [each["attempt"] for each in done.restarts] == [1]


@pytest.mark.soak
def test_without_restarts_a_hang_ends_with_its_exit_code(folder: Path):
    done = launch(folder, "hung", "sleep:1:4:1", *SAVED)
    assert done.code == EXIT_HANG == done.run.read_status()["exit_code"], done.stderr
    assert "rank 1 on" in done.stderr and "in misbehave" in done.stderr


@pytest.mark.soak
def test_a_stopped_run_is_not_restarted(folder: Path):
    process = start(
        folder, "asked", "sleep:1:30:1", "train.max_steps=100", "launcher.hang_seconds=8", "launcher.restarts=2"
    )
    run = RunFolder(folder / "runs" / "asked")
    wait_for_rows(run)
    while [row["step"] for row in run.read_metrics("train")][-1] < 29:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=480)
    assert process.returncode == EXIT_HANG, stderr
    assert "Restart" not in stderr and not (run.path / "restarts.jsonl").exists()
