"""A task of labels, from the command line to the folder that transformers opens."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from distft.config import ConfigError, compose
from distft.run import RunFolder
from distft.tasks import load_task
from tests.support.warm import python

pytestmark = pytest.mark.slow
WORDS = ("red", "green", "blue", "grey")


def rows_of(task: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for i in range(60):
        word = WORDS[i % 4]
        if task == "token_classification":
            found.append({"words": [f"w{i}", word], "tags": ["O", word.upper()]})
        else:
            label = float(i % 4) if task == "regression" else word.upper()
            found.append({"text": f"w{i} {word}", "label": label})
    return found


def distft(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python(), "-m", "distft", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("task", "tuning"),
    [
        ("token_classification", "full"),
        pytest.param("sequence_classification", "full", marks=pytest.mark.soak),
        pytest.param("regression", "lora", marks=pytest.mark.soak),
    ],
)
def test_a_task_of_labels_runs_and_its_export_opens(task: str, tuning: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in rows_of(task)))
    given = [f"model.task={task}", "model.tiny=true", f"data.train={rows}", "data.eval=0.2", "name=run"]
    given += [f"runs_dir={tmp_path}", f"cache_dir={tmp_path / 'cache'}", "train.max_steps=3", f"tuning={tuning}"]
    done = distft(
        "launch", *given, "train.precision=fp32", "export.format=auto" if tuning == "full" else "export.format=merged"
    )
    assert done.returncode == 0, done.stderr
    run, found = RunFolder(tmp_path / "run"), load_task(task)
    [*_, last] = run.read_metrics("eval")
    assert {*found.metric_names, "target_tokens"} <= last.keys()
    model: Any = getattr(transformers, found.model_class).from_pretrained(run.final)
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.final)
    names = [name.upper() for name in WORDS] + ["O"] * (task == "token_classification")
    if task != "regression":
        assert [*model.config.id2label.values()] == sorted(names)
    both = tokenizer(["w1 green", "w0 red and more"], return_tensors="pt", padding=True)
    one = tokenizer("w1 green", return_tensors="pt")
    with torch.no_grad():
        together, alone = (
            model.eval()(input_ids=each["input_ids"], attention_mask=each["attention_mask"]).logits
            for each in (both, one)
        )
    together = together[:1, : alone.shape[1]] if together.ndim == 3 else together[:1]
    torch.testing.assert_close(together, alone)


def test_the_loss_follows_the_task(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    right = ["model.tiny=true", f"data.train={tmp_path / 'rows.jsonl'}"]
    assert compose([*right, "model.task=regression"]).choices["loss"] == "mse"
    assert compose([*right, "model.task=regression", "loss=huber"]).choices["loss"] == "huber"
    assert compose([*right, "model.task=sequence_classification"]).choices["loss"] == "cross_entropy"
    with pytest.raises(ConfigError, match="loss=cross_entropy is for model.task=causal_lm or .*Try: loss=mse"):
        compose([*right, "model.task=regression", "loss=cross_entropy"])
