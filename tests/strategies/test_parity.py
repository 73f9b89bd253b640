"""Strategies train alike (DESIGN 4.1): whatever the strategy, world, micro-batch and accumulation, the same update.

Every YAML in conf/strategy and conf/model is in the matrix. Tolerances: fp32 sums in another order move loss and
gradient norm by a few 1e-7; AdamW turns a gradient's last bit into up to lr = 1e-3 of a weight only where the
gradient is near zero, hence 2e-5 absolute after 5 steps.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from distft.checkpoint.read import Checkpoint
from distft.checkpoint.format import step_dir
from distft.paths import conf_dir
from tests.ranks import run_ranks
from tests.rows import write_rows
from tests.strategies.reference import train_reference

STRATEGIES = sorted(path.stem for path in (conf_dir() / "strategy").glob("*.yaml"))
MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
SPLITS = {1: (8, 1), 2: (2, 1)}  # world -> micro-batch sizes; accumulation = 8 / (world x micro)
MAIN = "llama3_8b"


def make_cases(rows: Path, folder: Path, world: int) -> list[dict[str, Any]]:
    matrix = [(strategy, MAIN, micro) for strategy in STRATEGIES for micro in SPLITS[world]]
    if world == 2:
        matrix += [(strategy, model, 2) for model in MODELS if model != MAIN for strategy in STRATEGIES]
    return [
        {"strategy": s, "model": m, "micro": micro, "rows": str(rows), "save": str(folder / f"{s}-{m}-{world}-{micro}")}
        | ({"eval_micro": [1, 3, 8]} if m == MAIN else {})
        for s, m, micro in matrix
    ]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def trained(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, int, int], dict[str, Any]]:
    """All cases, by (strategy, model, world, micro); one group of processes for each world."""
    folder = tmp_path_factory.mktemp("parity")
    answers = []
    for world in SPLITS:
        cases = make_cases(rows, folder, world)
        answers += [(world, answer) for answer in run_cases(cases, world, folder)]
    hsdp = {"strategy": "hsdp", "settings": {"shard_size": 2}, "model": MAIN, "micro": 2, "rows": str(rows)}
    answers += [(4, a) for a in run_cases([hsdp | {"save": str(folder / "hsdp-4")}], 4, folder)]
    return {(a["case"]["strategy"], a["case"]["model"], world, a["case"]["micro"]): a for world, a in answers}


def run_cases(cases: list[dict[str, Any]], world: int, folder: Path) -> list[dict[str, Any]]:
    spec = folder / f"cases-{world}.json"
    spec.write_text(json.dumps(cases))
    return run_ranks(world, "tests.train_cases", str(spec))


@pytest.fixture(scope="module")
def references(rows: Path) -> dict[str, dict[str, Any]]:
    return {model: train_reference(model, rows) for model in MODELS}


KEYS = [
    *[(s, MAIN, world, micro) for s in STRATEGIES for world in SPLITS for micro in SPLITS[world]],
    *[(s, m, 2, 2) for m in MODELS if m != MAIN for s in STRATEGIES],
    ("hsdp", MAIN, 4, 2),
]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: "-".join(map(str, key)))
def test_a_strategy_trains_like_one_process_that_sees_all_rows_at_once(key: Any, trained: Any, references: Any) -> None:
    answer, reference = trained[key], references[key[1]]
    for step, ((loss, norm), (expected_loss, expected_norm)) in enumerate(zip(answer["steps"], reference["steps"])):
        assert loss == pytest.approx(expected_loss, rel=5e-6), f"loss of step {step + 1}"
        assert norm == pytest.approx(expected_norm, rel=5e-6), f"gradient norm of step {step + 1}"
    checkpoint = Checkpoint(step_dir(Path(answer["case"]["save"]), 5))
    assert sorted(checkpoint.names) == sorted(reference["weights"])
    for name, weight in reference["weights"].items():
        mine = checkpoint.read(name, tuple(weight.shape), 0, weight.numel()).view(weight.shape)
        torch.testing.assert_close(mine, weight, rtol=0, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_held_out_numbers_depend_on_no_split(trained: Any) -> None:
    for strategy in STRATEGIES:
        for world, micros in SPLITS.items():
            for micro in micros:
                losses = [held["loss"] for held in trained[strategy, MAIN, world, micro]["eval"]]
                assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    counts = {held["target_tokens"] for answer in trained.values() for held in answer.get("eval", [])}
    assert len(counts) == 1


def test_held_out_loss_is_equal_on_one_and_two_processes(trained: Any) -> None:
    one = trained["ddp", MAIN, 1, 8]["eval"][0]["loss"]
    two = trained["ddp", MAIN, 2, 2]["eval"][0]["loss"]
    assert two == pytest.approx(one, rel=2e-6)  # weights of two runs, 5 steps of rounding apart
