"""Pairs train the same whichever way the frozen base's log-probabilities come, on every strategy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distft.data.shards import Row, ShardWriter
from tests.support.ranks import run_ranks

pytestmark = pytest.mark.slow

LORA = {"rank": 4, "alpha": 8.0}
STRATEGIES = ("ddp", "fsdp", "zero3")
GLOBAL = 8  # rows of a step, all in one micro-batch


def write_pairs(folder: Path, count: int = 21, label: bool = False) -> Path:
    """Writes `count` pairs of unequal documents, or labelled answers."""
    folder.mkdir(parents=True, exist_ok=True)
    random, writer = np.random.default_rng(0), ShardWriter(folder, "train")
    for i in range(count):
        prompt = random.integers(0, 256, random.integers(1, 9))
        sides = [np.append(prompt, random.integers(0, 256, random.integers(1, 12))) for _ in range(1 if label else 2)]
        trained = [np.arange(len(side)) >= len(prompt) for side in sides]
        writer.add(
            Row(
                np.concatenate(sides).astype(np.int32),
                np.concatenate(trained),
                labels=np.array([float(i % 3 > 0)], np.float32) if label else None,
                borders=np.array([len(side) for side in sides[:-1]], np.int32),
            ),
            f"{i}",
        )
    writer.close()
    return folder


def case(strategy: str, reference: str, loss: str = "dpo", **more: Any) -> dict[str, Any]:
    name = f"{strategy}-{loss}"
    return {"name": name, "strategy": strategy, "reference": reference, "loss": loss, "lora": LORA, **more}


def run(world: int, rows: Path, folder: Path, cases: list[dict[str, Any]], part_rows: int = 8) -> list[dict[str, Any]]:
    module = "tests.train.reference_cases"
    return run_ranks(world, module, str(rows), str(folder), json.dumps(cases), str(part_rows))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def test_any_reference_gives_the_same_training_on_any_strategy(pairs: Path, tmp_path: Path) -> None:
    """Adapters alone are trained here, so both ways are there; a step's reward is of the weights before it."""
    alone = run(1, pairs, tmp_path / "one", [case("ddp", way, micro=GLOBAL) for way in ("adapter", "stored")])
    steps, stored = alone[0]["steps"], alone[1]["stored"]
    assert abs(steps[0][1]) < 1e-4 < abs(steps[2][1]), "the adapters have moved"
    assert np.shape(stored) == (21, 2)
    cases = [case(strategy, way) for strategy in STRATEGIES for way in ("adapter", "stored")]
    for found in [alone[1], *run(2, pairs, tmp_path / "two", cases)]:
        assert found["steps"] == [pytest.approx(step, rel=2e-5, abs=2e-6) for step in steps], found["case"]
        if found["stored"]:
            np.testing.assert_allclose(found["stored"], stored, rtol=2e-6)


def test_a_killed_pass_continues_after_its_last_part(pairs: Path, tmp_path: Path) -> None:
    [whole] = run(1, pairs, tmp_path, [case("ddp", "stored")])
    folder = tmp_path / "ddp-dpo"
    assert whole["written"] == [file.name for file in sorted(folder.iterdir())] and len(whole["written"]) == 3
    kept = {file.name: file.stat().st_ino for file in folder.iterdir()}
    (folder / whole["written"][1]).unlink()
    [again] = run(1, pairs, tmp_path, [case("ddp", "stored")])
    assert again["written"] == [whole["written"][1]] and again["stored"] == whole["stored"]
    assert {name: (folder / name).stat().st_ino for name in kept if name != again["written"][0]} == {
        name: inode for name, inode in kept.items() if name != again["written"][0]
    }
    [third] = run(1, pairs, tmp_path, [case("ddp", "stored")])
    assert third["written"] == [] and third["steps"] == whole["steps"], "another run reads what is there"


def test_labelled_answers_train_the_same_either_way(tmp_path: Path) -> None:
    rows = write_pairs(tmp_path / "rows", label=True)
    [adapter, stored] = run(1, rows, tmp_path, [case("ddp", way, "kto") for way in ("adapter", "stored")])
    assert np.shape(stored["stored"]) == (21, 1)
    assert stored["steps"] == [pytest.approx(step, rel=1e-6, abs=1e-7) for step in adapter["steps"]]
