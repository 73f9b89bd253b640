"""Strategies train alike (DESIGN 4.1): whatever the strategy, world, micro-batch and accumulation, the same update.

Every YAML in conf/strategy and conf/model is in the matrix, and the reference computes in fp64. Tolerances: rounding
in fp32 moves loss and gradient norm by a few 1e-7; AdamW turns a gradient's last bit into up to lr = 1e-3 of a weight
only where the gradient is near zero, hence 2e-5 absolute after 5 steps. Seen: 1.5e-6 of a norm, 7.4e-6
of a weight, and 1.6e-5 of one of GPT-2's, in all its strategies alike.

Replicas with different weights are detected.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from distft.checkpoint.load import Checkpoint
from tests.support.ranks import run_ranks
from tests.support.trained import EVAL_MICRO, KEYS, MAIN, MORE_KEYS, SPLITS, STRATEGIES, Key, checkpoint_of


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS, ids=lambda key: "-".join(map(str, key)))
def test_a_strategy_trains_like_one_process(key: Key, trained: Any, references: Any) -> None:
    assert_trains_alike(trained[key], references[key[1].partition("+")[0]])


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("key", MORE_KEYS, ids=lambda key: "-".join(map(str, key)))
def test_every_family_trains_like_one_process(key: Key, trained_more: Any, references: Any) -> None:
    assert_trains_alike(trained_more[key], references[key[1].partition("+")[0]])


def assert_trains_alike(answer: dict[str, Any], reference: dict[str, Any]) -> None:
    for step, ((loss, norm), (expected_loss, expected_norm)) in enumerate(
        zip(answer["steps"], reference["steps"], strict=True)
    ):
        assert loss == pytest.approx(expected_loss, rel=5e-6), f"loss of step {step + 1}"
        assert norm == pytest.approx(expected_norm, rel=5e-6), f"gradient norm of step {step + 1}"
    checkpoint = Checkpoint(checkpoint_of(answer))
    assert sorted(checkpoint.names) == sorted(reference["weights"])
    for name, weight in reference["weights"].items():
        mine = checkpoint.read(name, tuple(weight.shape), 0, weight.numel()).view(weight.shape)
        torch.testing.assert_close(
            mine.double(), weight, rtol=0, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.slow
def test_held_out_metrics_do_not_depend_on_micro_batch_size(trained: Any) -> None:
    for strategy in STRATEGIES:
        for world, (micro, _) in SPLITS.items():
            losses = [held["loss"] for held in trained[strategy, MAIN, world, micro]["eval"]]
            assert losses == pytest.approx([losses[0]] * len(EVAL_MICRO), rel=1e-6)


@pytest.mark.slow
def test_held_out_metrics_are_equal_on_any_world(trained: Any, tmp_path: Path) -> None:
    source = trained["ddp", MAIN, 1, 8]
    case = source["case"] | {"resume": str(checkpoint_of(source)), "save": None}
    spec = tmp_path / "cases.json"
    spec.write_text(json.dumps([case, case | {"strategy": "zero3"}]))
    for answer in run_ranks(2, "tests.support.train_cases", str(spec)):
        for mine, other in zip(answer["eval"], source["eval"], strict=True):
            assert mine["loss"] == pytest.approx(other["loss"], rel=1e-6)
            assert (mine["accuracy"], mine["target_tokens"]) == (other["accuracy"], other["target_tokens"])


@pytest.mark.slow
def test_a_rank_with_other_weights_is_detected(rows: Path, tmp_path: Path) -> None:
    case = {"model": "llama3_8b", "micro": 4, "rows": str(rows), "steps": 1}
    cases = [case | {"strategy": s, "perturb": rank} for s in ("ddp", "zero2") for rank in (1, None)]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    answers = run_ranks(2, "tests.support.train_cases", str(tmp_path / "cases.json"))
    assert [answer["differ"] for answer in answers] == [True, False, True, False]
