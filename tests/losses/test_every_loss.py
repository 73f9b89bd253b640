"""Every YAML in conf/loss trains alike on any strategy and split, for every task that takes it, and is additive.

The bars are those of tests/strategies/test_parity.py, where causal language modelling with cross_entropy is. The
reference is transformers' own class, on a padded batch, in fp64. A run takes both splits, in turn.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distft import worker
from distft.checkpoint.format import step_dir
from distft.checkpoint.load import Checkpoint
from distft.data.batches import collate, make_batch
from distft.evaluate.item_sums import rows_of_units
from distft.losses import OUTPUTS
from distft.models.heads import make_foldable
from distft.tasks import load_task
from tests.support.objectives import (
    BERT,
    LOSSES,
    PAIRS,
    REFERENCES,
    TRAINED,
    case_of,
    own_class,
    train_by_class,
    write_labelled,
)
from tests.support.pair_objectives import OF_PAIRS
from tests.support.ranks import run_ranks
from tests.support.rows import open_rows
from tests.support.taught_objectives import OF_DISTILLATION
from tests.support.train_cases import config_of
from tests.support.trained import CUTS, checkpoint_of

pytestmark = pytest.mark.slow
Key = tuple[str, str, str, str]  # loss, task, family, strategy
SPLITS = [4, 1]  # rows per forward on 2 processes, of 8 a step, in turn: each step's loss and norm are compared
ENCODED = {  # a loss and task -> a family of encoders, and strategies; all but the first are soak
    ("mse", "regression"): ("bert", ("zero2", "ddp", "zero3")),
    ("cross_entropy", "sequence_classification"): ("roberta", ("fsdp", "zero2")),
}
RESUMED = {  # task -> a loss and a strategy
    "regression": ("mse", "zero3"),
    "sequence_classification": ("bce", "fsdp"),
    "token_classification": ("cross_entropy", "zero2"),
    "reward_model": ("reward", "ddp"),
}
# A strategy sees a sum and no loss. So each loss meets one of them, in turn; the other pairs are soak.
ONCE = {pair: CUTS[i % len(CUTS)] for i, pair in enumerate(TRAINED)}
ONCE |= {(word, task): strategy for task, (word, strategy) in RESUMED.items()}
KEYS: list[Key] = [
    *[(*pair, "llama", strategy) for pair, strategy in ONCE.items()],
    *[(*pair, family, strategies[0]) for pair, (family, strategies) in ENCODED.items()],
]
MORE_KEYS: list[Key] = [key for pair in TRAINED for cut in CUTS if (key := (*pair, "llama", cut)) not in KEYS]
MORE_KEYS += [(*pair, family, strategy) for pair, (family, (_, *more)) in ENCODED.items() for strategy in more]
FAMILIES: dict[str, dict[str, Any]] = {"llama": {}, "bert": BERT, "roberta": BERT | {"model_type": "roberta"}}


def name_of(key: Key) -> str:
    return "-".join(map(str, key))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    root = tmp_path_factory.mktemp("labelled")
    return {pair: write_labelled(root / "-".join(pair), *pair) for pair in TRAINED}


def case_by_key(key: Key, folders: dict[tuple[str, str], Path], root: Path) -> dict[str, Any]:
    word, task, family, strategy = key
    case = case_of(word, task, strategy, SPLITS, FAMILIES[family])
    case |= {"rows": str(folders[word, task]), "save": str(root / name_of(key))}
    if family == "llama" and strategy == ONCE[word, task]:
        case["eval_micro"] = [(2, None), (5, None), (None, 64)]
    if RESUMED.get(task) == (word, strategy):
        case["save_each"] = str(root / f"steps-{task}")
    return case


@pytest.fixture(scope="module")
def answers(
    folders: dict[tuple[str, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[Key, dict[str, Any]]:
    root = tmp_path_factory.mktemp("losses")
    cases = [case_by_key(key, folders, root) for key in KEYS]
    for task, (word, strategy) in RESUMED.items():
        case = case_of(word, task, strategy, SPLITS) | {"rows": str(folders[word, task])}
        saved = step_dir(root / f"steps-{task}" / "3", 3)
        cases.append(case | {"resume": str(saved), "save": str(root / f"again-{task}")})
    (root / "cases.json").write_text(json.dumps(cases))
    done = run_ranks(2, "tests.support.train_cases", str(root / "cases.json"))
    resumed = {("resumed", task): answer for task, answer in zip(RESUMED, done[len(KEYS) :], strict=True)}
    return dict(zip(KEYS, done, strict=False)) | resumed


@pytest.fixture(scope="module")
def more_answers(
    folders: dict[tuple[str, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[Key, dict[str, Any]]:
    root = tmp_path_factory.mktemp("more-losses")
    (root / "cases.json").write_text(json.dumps([case_by_key(key, folders, root) for key in MORE_KEYS]))
    return dict(zip(MORE_KEYS, run_ranks(2, "tests.support.train_cases", str(root / "cases.json")), strict=True))


@pytest.mark.parametrize("task", RESUMED)
def test_a_resumed_run_has_the_same_bits(task: str, answers: Any) -> None:
    word, strategy = RESUMED[task]
    whole, resumed = answers[word, task, "llama", strategy], answers["resumed", task]
    assert resumed["steps"] == whole["steps"][3:]
    one, other = Checkpoint(checkpoint_of(whole)), Checkpoint(checkpoint_of(resumed))
    for name in one.names:
        shape = one.shapes["parameter", name]
        count = math.prod(shape)
        assert torch.equal(one.read(name, shape, 0, count), other.read(name, shape, 0, count)), name


@pytest.mark.parametrize("world", [1, 3])
def test_metrics_are_equal_on_any_number_of_processes(world: int, answers: Any, tmp_path: Path) -> None:
    pairs = [pair for pair in TRAINED if pair in ENCODED or pair[1] == "token_classification"]
    whole = [answers[*pair, "llama", ONCE[pair]] for pair in pairs]
    cases = [each["case"] | {"resume": str(checkpoint_of(each)), "save": None} for each in whole]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    for mine, other in zip(
        run_ranks(world, "tests.support.train_cases", str(tmp_path / "cases.json")), whole, strict=True
    ):
        for one, two in zip(mine["eval"], other["eval"], strict=True):
            assert one == pytest.approx(two, rel=1e-6)


@pytest.fixture(scope="module")
def references(folders: dict[tuple[str, str], Path]) -> dict[tuple[str, str, str], dict[str, Any]]:
    keys = dict.fromkeys(key[:3] for key in KEYS)
    return {
        (word, task, family): train_by_class(case_of(word, task, "ddp", [8], FAMILIES[family]), folders[word, task])
        for word, task, family in keys
    }


@pytest.mark.parametrize("key", KEYS, ids=name_of)
def test_a_loss_trains_like_its_class_on_one_process(key: Key, answers: Any, references: Any) -> None:
    assert_trains_alike(answers[key], references[key[:3]])


@pytest.mark.soak
@pytest.mark.parametrize("key", MORE_KEYS, ids=name_of)
def test_a_loss_trains_like_its_class_on_any_strategy(key: Key, more_answers: Any, references: Any) -> None:
    assert_trains_alike(more_answers[key], references[key[:3]])


def assert_trains_alike(answer: dict[str, Any], reference: dict[str, Any]) -> None:
    for mine, expected in zip(answer["steps"], reference["steps"], strict=True):
        assert mine == pytest.approx(expected, rel=5e-6)
    checkpoint = Checkpoint(checkpoint_of(answer))
    assert sorted(checkpoint.names) == sorted(reference["weights"])
    for name, weight in reference["weights"].items():
        mine = checkpoint.read(name, tuple(weight.shape), 0, weight.numel()).view(weight.shape)
        torch.testing.assert_close(
            mine.double(), weight, rtol=0, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_every_loss_has_a_task_and_a_reference() -> None:
    assert {word for word, _ in PAIRS} == set(LOSSES)
    assert {word for word, _ in TRAINED} <= {*REFERENCES, *OF_PAIRS, *OF_DISTILLATION}
    assert {word for task in map(load_task, dict(PAIRS).values()) for word in task.losses} <= set(LOSSES)


def test_metrics_do_not_depend_on_the_batches(answers: Any) -> None:
    for (word, task), strategy in ONCE.items():
        first, *others = answers[word, task, "llama", strategy]["eval"]
        assert set(first) == {*load_task(task).metrics_with(word), "target_tokens"}
        for other in others:
            assert other == pytest.approx(first, rel=1e-5), f"{word} {task}"


@pytest.mark.parametrize("pair", TRAINED, ids="-".join)
def test_a_loss_is_additive(pair: tuple[str, str], folders: Any) -> None:
    case = case_of(*pair, "ddp", [8])
    loss, model = worker.built(config_of(case).loss), own_class(case).train()
    if model.get_output_embeddings() is not None:
        make_foldable(model)
    rows = open_rows(folders[pair], "train")
    whole, sums = loss(model, collate(rows, np.arange(9)))
    parts = [loss(model, collate(rows, part)) for part in (np.arange(4), np.arange(4, 5), np.arange(5, 9))]
    parts.append(loss(model, make_batch([])))
    assert sum(value for value, _ in parts).item() == pytest.approx(whole.item(), rel=1e-5)
    for name in sums.keys() - {OUTPUTS}:
        assert sum(each[name] for _, each in parts).item() == pytest.approx(sums[name].item(), rel=1e-5), name
    if OUTPUTS in sums:
        assert torch.cat([each[OUTPUTS] for _, each in parts]).shape == sums[OUTPUTS].shape
    assert parts[-1][0] == 0 and parts[-1][0].requires_grad


@pytest.mark.parametrize("pair", [pair for pair in TRAINED if pair[1] != "causal_lm"], ids="-".join)
def test_a_loss_by_unit_is_that_of_each_row_alone(pair: tuple[str, str], folders: Any) -> None:
    case = case_of(*pair, "ddp", 8)
    loss, model = worker.built(config_of(case).loss), own_class(case).eval()
    if model.get_output_embeddings() is not None:
        make_foldable(model)
    rows = open_rows(folders[pair], "train")
    batch = replace(collate(rows, np.arange(5)), by_unit=True)
    with torch.no_grad():
        values, sums = loss(model, batch)
        alone = [loss(model, collate(rows, np.array([row]))) for row in range(5)]
    places = rows_of_units(batch)
    for row, (value, others) in enumerate(alone):
        assert values[places == row].sum().item() == pytest.approx(value.item(), rel=1e-5)
        for name in sums.keys() - {OUTPUTS}:
            assert sums[name][places == row].sum().item() == pytest.approx(others[name].item(), rel=1e-5, abs=1e-9)
        if OUTPUTS in sums:
            torch.testing.assert_close(sums[OUTPUTS][places == row], others[OUTPUTS], rtol=1e-4, atol=1e-6)
