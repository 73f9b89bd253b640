"""A run that overfits stops within its patience, says so, and exports its best step, also after it was killed."""

import hashlib
import json
import random
import time
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distft.checkpoint.load import Checkpoint
from distft.checkpoint.retention import complete
from distft.export.__main__ import main as export
from distft.run import RunFolder
from tests.launch.test_launch import end, run_of, start

pytestmark = pytest.mark.slow

EVERY, PATIENCE = 8, 3
SETTINGS = (
    "optimizer.lr=2e-2", "schedule=constant", "train.max_steps=160", "train.global_batch_size=50",
    "train.micro_batch_size=50", f"eval.every_steps={EVERY}", f"eval.early_stopping.patience={PATIENCE}",
    "eval.train_rows=60", "checkpoint.every_steps=20", "checkpoint.keep=2", "data.max_length=32", "eval.at_ends=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 rows of random letters to learn by heart, and 60 others: only the letters' frequencies carry over."""
    folder, chance = tmp_path_factory.mktemp("overfit"), random.Random(1)
    for name, count in (("rows", 200), ("others", 60)):
        texts = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(8, 16))) for _ in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def launch(folder: Path, name: str) -> Any:
    return start(folder, name, f"data.eval={folder / 'others.jsonl'}", *SETTINGS)


@pytest.fixture(scope="module")
def straight(folder: Path) -> tuple[RunFolder, str]:
    code, said, stderr = end(launch(folder, "straight"))
    assert code == 0, stderr
    return run_of(folder, "straight"), said + stderr


def best_step(run: RunFolder) -> int:
    losses = {row["step"]: row["loss"] for row in run.read_metrics("eval")}
    return min(losses, key=lambda step: (losses[step], step))


def wait_for_evaluation(run: RunFolder, step: int) -> None:
    deadline = time.monotonic() + 240
    while step not in [row["step"] for row in run.read_metrics("eval")]:
        assert time.monotonic() < deadline, "the run did not get there"
        time.sleep(0.02)


def sha256(run: RunFolder) -> str:
    return hashlib.sha256((run.final / "model.safetensors").read_bytes()).hexdigest()


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    saved = Checkpoint(folder)
    shapes = {name: saved.shapes["parameter", name] for name in saved.names}
    return {name: saved.read(name, shape, 0, prod(shape)).view(shape) for name, shape in shapes.items()}


def test_an_overfitting_run_stops_within_patience_of_its_best(straight: tuple[RunFolder, str]) -> None:
    run, said = straight
    status, best = run.read_status(), best_step(run)
    assert status["state"] == "stopped_early" and status["step"] == best + PATIENCE * EVERY < 160
    assert status["best"]["step"] == best and f"step {best}: the best of" in said
    final = load_file(run.final / "model.safetensors")
    for name, weights in parameters(run.checkpoints / "best").items():
        assert torch.equal(final[name], weights), name
    seen, others = ({row["step"]: row["loss"] for row in run.read_metrics(name)} for name in ("train_eval", "eval"))
    assert seen.keys() == others.keys(), "training rows are evaluated with the held-out rows"
    gaps = {step: others[step] - seen[step] for step in seen}
    assert gaps[status["step"]] > gaps[best], "the losses of both part"


@pytest.mark.soak
def test_a_killed_run_stops_there_with_the_same_weights(straight: tuple[RunFolder, str], folder: Path) -> None:
    run, killed = straight[0], run_of(folder, "killed")
    process = launch(folder, "killed")
    wait_for_evaluation(killed, best_step(run) + EVERY)  # one that is not better
    process.kill()
    process.communicate()
    code, _, stderr = end(launch(folder, "killed"))
    assert code == 0, stderr
    assert killed.read_status()["attempt"] == 2
    for key in ("state", "step", "best"):
        assert killed.read_status()[key] == run.read_status()[key]
    assert sha256(killed) == sha256(run)


def test_the_mean_of_the_last_checkpoints_is_exported(
    straight: tuple[RunFolder, str], tmp_path: Path, capsys: Any
) -> None:
    run = straight[0]
    assert export([f"run={run.path}", f"out={tmp_path / 'mean'}", "at=average"]) == 0
    folders = complete(run.checkpoints)[-2:]
    first, last = map(parameters, folders)
    found = load_file(tmp_path / "mean" / "model.safetensors")
    for name, weights in first.items():
        torch.testing.assert_close(found[name], (weights + last[name]) / 2, rtol=1e-6, atol=1e-9)
    steps = [int(folder.name[5:]) for folder in folders]
    assert f"the mean of 2 checkpoints, of steps {steps[0]} and {steps[1]}" in capsys.readouterr().out
