"""Preference pairs, from the command line to the exported model, also after kills."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from distft.data.shards import Rows
from distft.run import RunFolder
from tests.support.warm import python

pytestmark = pytest.mark.slow


def write_pairs(file: Path) -> Path:
    rows = [
        {"prompt": f"Count to {i}", "chosen": "good " * (i % 7 + 1), "rejected": "bad " * (i % 5 + 1)}
        for i in range(40)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def distft(command: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    rows = write_pairs(folder / "rows.jsonl")
    given = ["model.tiny=true", f"data.train={rows}", "data.eval=0.2", "data.max_length=96", "train.precision=fp32"]
    given += [f"runs_dir={folder}", f"cache_dir={folder / 'cache'}", "train.global_batch_size=8", "optimizer.lr=1e-3"]
    command_line = [python(), "-m", "distft", command, *given, *words]
    return subprocess.run(command_line, capture_output=True, text=True, check=False)


@pytest.mark.soak
def test_an_exported_reward_model_gives_the_rewards_measured(tmp_path: Path) -> None:
    """By transformers' own class, one unpadded document at a time."""
    done = distft("launch", tmp_path, "model.task=reward_model", "name=run", "train.max_steps=3")
    assert done.returncode == 0, done.stderr
    run = RunFolder(tmp_path / "run")
    [*_, last] = run.read_metrics("eval")
    assert last["preference_accuracy"] > 0.5
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(run.final).eval()
    assert model.config.num_labels == 1
    margins = []
    for row in Rows(run.read_plan().rows_dir, "eval"):
        with torch.no_grad():
            ids = [torch.from_numpy(document.input_ids.astype("int64"))[None] for document in row.documents()]
            chosen, rejected = (model(input_ids=each).logits.item() for each in ids)
        margins.append(chosen - rejected)
    assert sum(margins) / len(margins) == pytest.approx(last["margin"], abs=1e-4)


@pytest.mark.soak
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_killed_dpo_resumes_with_the_same_bits(tuning: str, tmp_path: Path) -> None:
    words = ("model.task=preference", "train.max_steps=6", "checkpoint.every_steps=2", f"tuning={tuning}")
    done = distft("verify_resume", tmp_path, *words)
    assert done.returncode == 0 and done.stdout.count("bit-equal") >= 2, done.stdout + done.stderr
