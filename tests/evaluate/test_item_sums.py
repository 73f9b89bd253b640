"""Each held-out row is measured once, the same on any number of processes; sums are those of training's loss."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distft.data.batches import collate, make_batch
from distft.data.shards import Row
from distft.evaluate.item_sums import causal_lm, item_sums
from tests.support.alone import alone
from tests.support.generate_cases import ready
from tests.support.item_sum_cases import COUNTS, LIMITS, STRATEGIES, measured, rows_of, scored
from tests.support.ranks import run_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def by_one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("rows")
    with alone() as world:
        engine = ready("smollm2_135m", "fsdp", world)
        found: dict[str, Any] = {str(count): measured(engine, rows_of(folder, count), world)[0] for count in COUNTS}
        found["score"] = scored(engine, world)
    return found


@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.soak), 3])
def test_several_processes_measure_like_one(world: int, by_one: dict[str, Any]) -> None:
    found = run_ranks(world, "tests.support.item_sum_cases")
    for strategy in STRATEGIES:
        for count in COUNTS:
            shares = found[f"{strategy} {count}"]
            lines = sorted((line for share in shares for line in share), key=lambda line: line["row"])
            assert [line["row"] for line in lines] == list(range(count))
            for line, expected in zip(lines, sorted(by_one[str(count)], key=lambda line: line["row"]), strict=True):
                assert line.pop("loss") == pytest.approx(expected["loss"], rel=1e-6)
                assert line == {name: value for name, value in expected.items() if name != "loss"}
        for (value, is_greedy), (expected, was_greedy) in zip(found[f"{strategy} score"], by_one["score"], strict=True):
            assert value == pytest.approx(expected, rel=1e-5) and is_greedy == was_greedy
    assert len({len(share) for share in found["fsdp 5"]}) > 1  # 5 rows are no equal shares


@pytest.mark.parametrize(("model", "soft_cap"), [("gemma3_4b", 0.05), ("gpt2", None)])
def test_the_sums_of_rows_are_those_of_the_loss(model: str, soft_cap: float | None, tmp_path: Path) -> None:
    rows = rows_of(tmp_path, 9)
    with alone() as world:
        engine = ready(model, "ddp", world)
        engine.train(False)
        if soft_cap:
            engine.objective.model.config.get_text_config().final_logit_softcapping = soft_cap
        lines = list(item_sums(engine, rows, LIMITS, world))
        with torch.no_grad():
            value, sums = engine.forward(collate(rows, np.arange(9)))
    assert sum(line["loss"] for line in lines) == pytest.approx(float(value), rel=1e-6)
    assert sum(line["correct"] for line in lines) == int(sums["correct"])
    assert [line["targets"] for line in sorted(lines, key=lambda line: line["row"])] == rows.num_targets.tolist()


def test_weights_count_in_the_loss_alone() -> None:
    tokens, trained = np.arange(20, 30, dtype=np.int32), np.arange(10) >= 4
    weights = np.where(trained, 0.5, 0).astype(np.float32)
    plain, weighted = Row(tokens, trained), Row(tokens, trained, weights)
    with alone() as world, torch.no_grad():
        engine = ready("llama3_8b", "ddp", world)
        sums = engine.forward(make_batch([plain, weighted]), causal_lm)[1]
    assert sums["loss"][1] == pytest.approx(0.5 * sums["loss"][0].item(), rel=1e-6)
    assert sums["weight"].tolist() == [6, 3] and sums["targets"].tolist() == [6, 6]
