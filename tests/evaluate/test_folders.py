"""`distft evaluate` measures an exported folder by the task that its config.json describes."""

import json
from pathlib import Path
from typing import Any

import pytest

from distft.config.model_folder import task_of
from distft.evaluate.__main__ import main
from distft.export.__main__ import main as export
from distft.tasks.labels import Labels
from tests.evaluate.test_main import Here
from tests.support.answered import make_run, read_lines, write_lines

COLORS = ("red", "green", "blue", "grey")
HEAD = "LlamaForSequenceClassification"


def rows_of(task: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for i in range(40):
        color, other = COLORS[i % 4], COLORS[i // 4 % 4]
        text = f"w{i} {color} and {other}"
        if task == "token_classification":
            found.append({"words": text.split(), "tags": ["O", color, "O", other]})
        elif task == "reward_model":
            found.append({"prompt": f"w{i}", "chosen": color, "rejected": f"not {color}"})
        else:
            labels = {"regression": float(i % 4), "several": sorted({color, other})}
            found.append({"text": text, "label": labels.get(task, color)})
    return found


SOAK = ("several", "regression", "token_classification", "reward_model")


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    ["sequence_classification", *(pytest.param(name, marks=pytest.mark.soak) for name in SOAK)],
)
def test_an_export_measures_like_its_run(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distft.evaluation.Local", Here)
    train, test = (write_lines(tmp_path / f"{name}.jsonl", rows_of(task)[part]) for name, part in PARTS.items())
    words = ["sequence_classification", "loss=bce"] if task == "several" else [task]
    words[0] = f"model.task={words[0]}"
    run = make_run(tmp_path, f"data.train={train}", "data.max_length=64", *words)
    assert export([f"run={run.path}", f"out={tmp_path / 'out'}", "at=latest", "dtype=fp32"]) == 0
    found = {}
    for place in (run.path, tmp_path / "out"):
        out = tmp_path / f"eval-{place.name}"
        given = [f"run={place}", f"data.eval={test}", f"out={out}", "launcher.processes_per_node=1", "precision=fp32"]
        assert main(given) == 0
        metrics = json.loads((out / "metrics.json").read_text())["metrics"]
        losses = {item["id"]: item["loss_sum"] for item in read_lines(out / "items.jsonl")}
        found[place.name] = {name: each["value"] for name, each in metrics.items()}, losses
    (metrics, losses), (its_metrics, its_losses) = found["run"], found["out"]
    assert len(metrics) > 1 and len(losses) == 12
    assert its_metrics == pytest.approx(metrics, rel=1e-5)  # a correlation of outputs that hardly differ
    assert its_losses == pytest.approx(losses, rel=1e-6, abs=1e-6)  # other micro-batches


PARTS = {"train": slice(0, 28), "test": slice(28, 40)}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"architectures": ["LlamaForCausalLM"], "id2label": {"0": "a"}}, ("causal_lm", None)),
        ({}, ("causal_lm", None)),
        (
            {"architectures": [HEAD], "id2label": {"1": "POS", "0": "NEG"}},
            ("sequence_classification", Labels("single_label_classification", 2, ("NEG", "POS"))),
        ),
        (  # two classes without names are what transformers does not write
            {"architectures": ["BertForSequenceClassification"]},
            ("sequence_classification", Labels("single_label_classification", 2, ("0", "1"))),
        ),
        (
            {"architectures": [HEAD], "id2label": {"0": "LABEL_0"}, "problem_type": "regression"},
            ("regression", Labels("regression", 1)),
        ),
        ({"architectures": [HEAD], "id2label": {"0": "LABEL_0"}}, ("reward_model", None)),
        (
            {"architectures": ["BertForTokenClassification"], "id2label": {"0": "O", "1": "B-PER"}},
            ("token_classification", Labels("single_label_classification", 2, ("O", "B-PER"))),
        ),
    ],
)
def test_task_and_labels_are_those_of_the_config(facts: dict[str, Any], expected: Any) -> None:
    assert task_of(facts) == expected
