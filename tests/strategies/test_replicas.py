"""Processes that should hold the same weights are known to, and one that does not is noticed."""

import json
from pathlib import Path

import pytest

from tests.support.ranks import run_ranks


@pytest.mark.slow
def test_one_process_with_other_weights_is_noticed(rows: Path, tmp_path: Path) -> None:
    case = {"model": "llama3_8b", "micro": 4, "rows": str(rows), "steps": 1}
    cases = [case | {"strategy": s, "perturb": rank} for s in ("ddp", "zero2") for rank in (1, None)]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    answers = run_ranks(2, "tests.support.train_cases", str(tmp_path / "cases.json"))
    assert [answer["differ"] for answer in answers] == [True, False, True, False]
