"""`exact=true` counts activations on the run's own model, prepared rows and loss."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from distft.config import ConfigError, compose
from distft.plan import make_plan
from distft.plan.activations import activation_bytes
from distft.plan.estimate import Case, traced
from distft.step_trace import chosen, largest
from tests.support.warm import python

TINY = ["model=smollm2_135m", "model.tiny=true", "data.max_length=128", "data.eval=null"]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python(), "-m", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def rows(tmp_path: Path) -> list[str]:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"text": "{"word " * (3 + i % 20)}"}}\n' for i in range(64)))
    return [f"data.train={file}", f"cache_dir={tmp_path}", *TINY]


@pytest.mark.slow
def test_a_plan_is_traced_before_and_after_its_rows_are_prepared(rows: list[str]) -> None:
    before = json.loads(command("distft.plan", *rows, "exact=true", "--json").stdout)
    assert command("distft.prepare", *rows).returncode == 0
    done = command("distft.plan", *rows, "exact=true", "--json")
    after, config = json.loads(done.stdout), compose(rows)
    plain = make_plan(config)
    case = Case.of(config, plain, accelerators=False)
    assert case is not None
    for found in (before, after):
        formula = activation_bytes(case.facts, case.batch)
        assert 0.5 < found["memory_gib"]["activations"] * 2**30 / formula < 1.2
        parts = ("parameters", "gradients", "optimizer", "gathered", "activations", "loss")
        assert found["memory_gib"]["peak"] == pytest.approx(sum(found["memory_gib"][part] for part in parts))
    batch = largest(config, plain)
    assert 100 < batch.input_ids.numel() <= 128 and batch.lengths[0] == max(batch.lengths)


def test_the_longest_rows_fill_a_micro_batch(rows: list[str]) -> None:
    lengths = np.array([5, 60, 100, 30, 50])
    config = compose([*rows, "train.micro_batch_tokens=128"])
    assert lengths[list(chosen(lengths, make_plan(config)))].tolist() == [100, 5]
    by_rows = compose([*rows, "data.packing=false", "train.micro_batch_size=2"])
    assert lengths[list(chosen(lengths, make_plan(by_rows)))].tolist() == [100, 60]


@pytest.mark.slow
def test_labelled_rows_are_prepared_first(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    texts = (f'{{"text": "row {i} says so", "label": "{("no", "yes")[i % 2]}"}}' for i in range(40))
    file.write_text("\n".join(texts))
    typed = [
        "experiment=classify",
        f"data.train={file}",
        f"cache_dir={tmp_path}",
        *TINY,
        "data.eval=0.1",
        "eval.every_steps=1",
    ]
    with pytest.raises(ConfigError, match="needs prepared rows"):
        traced(typed, make_plan(compose(typed)), 4)
    assert command("distft.prepare", *typed).returncode == 0
    counted = traced(typed, make_plan(compose(typed)), 4).memory["ddp"]
    assert counted["peak"] > counted["total"] and counted["activations"] > counted["loss"]
