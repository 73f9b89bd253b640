"""A loss or gradient that is not finite, on one rank alone, changes no bit of any weight or moment, and all know."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.ranks import run_ranks
from tests.support.trained import STRATEGIES

BF16 = ("ddp", "zero2", "zero3", "zero3_offload")
KINDS = [("loss", "nan"), ("gradient", "inf")]


@pytest.fixture(scope="module")
def answers(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    base = {"model": "llama3_8b", "micro": 2, "rows": str(rows)}
    cases = [
        base | {"strategy": strategy, "what": what, "number": number, "rank": i % 2}
        for strategy in STRATEGIES
        for i, (what, number) in enumerate(KINDS)
    ]
    cases += [base | {"strategy": "fsdp", "what": "loss", "number": number, "rank": 1} for number in ("inf", "-inf")]
    cases += [
        base | {"strategy": strategy, "precision": "bfloat16", "what": "gradient", "number": "nan", "rank": 1}
        for strategy in BF16
    ]
    cases += [
        base
        | {"strategy": strategy, "precision": precision, "what": "gradient", "number": "nan", "rank": 1}
        | {"settings": {"offload": True}}
        for strategy in ("zero1", "zero2")
        for precision in ("float32", "bfloat16")
    ]
    for case in cases:
        if case["strategy"] == "hsdp":
            case["settings"] = {"shard_size": 2}
    spec = tmp_path_factory.mktemp("spoilt") / "cases.json"
    spec.write_text(json.dumps(cases))
    return run_ranks(2, "tests.train.spoilt", str(spec))


@pytest.mark.slow
def test_all_ranks_leave_the_step_out(answers: list[dict[str, Any]]):
    for answer in answers:
        for rank in answer["ranks"]:
            assert rank["spoilt"]["skipped"] == [False, True, False], answer["case"]
            assert rank["spoilt"]["norms"][1] in ("nan", "inf"), answer["case"]


@pytest.mark.slow
def test_no_bit_of_weights_and_moments_changes_and_the_next_step_is_as_if_it_had_not_been(answers):
    for answer in answers:
        for rank in answer["ranks"]:
            first, spoilt, last = rank["spoilt"]["states"]
            assert first == spoilt, answer["case"]
            assert last == rank["twin"]["states"][-1], answer["case"]
            assert first != last
