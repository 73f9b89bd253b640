"""A row that makes a step NaN/Inf is skipped, reported with its step, and named by the recorded replay command."""

import json
import math
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from distft.checkpoint.format import read_manifest
from distft.run import RunFolder, read_json
from tests.support.rows import write_sums
from tests.support.warm import python

pytestmark = pytest.mark.soak
ANEW = "checkpoint.resume=never"  # counts once: what it goes back to is its own
LONG = 60  # tokens; the rows of write_sums have 35 at most


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 rows, and one that is longer than all others."""
    folder = write_sums(tmp_path_factory.mktemp("spoilt"))
    with (folder / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "a long one " * 5, "completion": "and 80"}) + "\n")
    return folder


def launch(folder: Path, name: str, *overrides: str, **variables: str) -> tuple[RunFolder, int, str]:
    settings = [
        "model=gpt2",
        "model.tiny=true",
        "data.eval=null",
        f"data.train={folder / 'rows.jsonl'}",
        "export=false",
    ]
    settings += ["train.epochs=1", "train.global_batch_size=4", "train.micro_batch_size=2", "eval=none"]
    settings += ["launcher.processes_per_node=2", f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    settings += ["launcher.program=tests.support.spoilt_rank", "checkpoint.every_steps=2", "checkpoint.keep=9"]
    command = [python(), "-m", "distft.launch", *settings, f"name={name}", *overrides]
    done = subprocess.run(command, env=os.environ | variables, stderr=subprocess.PIPE, text=True, check=False)
    return RunFolder(folder / "runs" / name), done.returncode, done.stderr


def steps(run: RunFolder) -> list[dict[str, Any]]:
    return list(run.read_metrics("train"))


def spoilt_batch(run: RunFolder) -> dict[str, Any]:
    [file] = (run.path / "batches").glob("step-*.json")
    return read_json(file)


@pytest.fixture(scope="module")
def skipped(folder: Path) -> tuple[RunFolder, int, str]:
    return launch(folder, "skipped", SPOILT_TOKENS=str(LONG))


def test_a_non_finite_step_is_skipped_and_reported(skipped: tuple[RunFolder, int, str]):
    run, code, stderr = skipped
    assert code == 0, stderr
    [odd] = [row["step"] for row in steps(run) if row.get("skipped")]
    [warning] = run.read_metrics("warning")
    assert warning["step"] == odd and f"step {odd} was skipped" in warning["text"] and warning["text"] in stderr
    batch = spoilt_batch(run)
    assert batch["step"] == odd and sum(len(each["rows"]) for each in batch["micro_batches"]) in (1, 4)


@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_the_recorded_command_replays_the_step(strategy: str, folder: Path):
    """A run diverges by its learning rate: its loss or, with a finite loss, its gradient norm is not finite."""
    wild = ("optimizer=sgd", "optimizer.lr=1000", "train.max_grad_norm=null", "checkpoint.every_steps=null")
    run, code, stderr = launch(folder, f"wild-{strategy}", f"strategy={strategy}", "train.on_non_finite=stop", *wild)
    assert code == 1 and run.read_status()["error"]["type"] == "NonFinite", stderr
    batch = spoilt_batch(run)
    _, *command = shlex.split(batch["replay"])
    done = subprocess.run([python(), *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    step = read_json(run.path / "replay" / f"step-{batch['step']}" / "step.json")
    assert (step["loss"], step["grad_norm"]) == (batch["metrics"]["loss"], batch["metrics"]["grad_norm"])
    non_finite = [each for each in step["micro_batches"] if not each["is_finite"]]
    if math.isfinite(float(step["loss"])):
        assert not math.isfinite(float(step["grad_norm"])) and not non_finite
        assert "the loss of every micro-batch is finite" in done.stdout
    else:
        assert non_finite and all(each["rows"] for each in non_finite)
        assert f"row {non_finite[0]['rows'][0]['row']} (" in done.stdout


def test_a_rewind_continues_after_the_window(folder: Path):
    run, code, stderr = launch(folder, "rewound", "train.on_non_finite=rewind", ANEW, SPOILT_TOKENS=str(LONG))
    assert code == 0, stderr
    batch, plan = spoilt_batch(run), run.read_plan()
    windows = [read_manifest(each).get("skipped") for each in run.checkpoints.glob("step-*")]
    [window] = [each[0] for each in windows if each]
    assert window["to_step"] == batch["step"] and window["rows"][1] == plan.base_row
    assert plan.base_step == window["after_step"] < batch["step"]
    assert [row["step"] for row in steps(run)] == list(range(1, plan.steps + 1)), "each step once"
    assert not any(row.get("skipped") for row in steps(run))
    assert read_manifest(run.checkpoints / "latest")["base_row"] == plan.base_row


def test_stop_ends_the_run_without_a_restart(folder: Path):
    run, code, stderr = launch(
        folder, "stopped", "train.on_non_finite=stop", "launcher.restarts=2", SPOILT_TOKENS=str(LONG)
    )
    assert code == 1 and not (run.path / "restarts.jsonl").exists()
    assert run.read_status()["error"]["type"] == "NonFinite" and "train.on_non_finite=stop" in stderr


def test_a_replica_with_a_flipped_bit_ends_the_run(folder: Path):
    run, code, stderr = launch(folder, "bits", "train.check_replicas_every=1", SPOILT_BITS="3")
    assert code == 1 and "processes that replicate the same weights hold different ones" in stderr
    assert len(steps(run)) == 3
