"""What FSDP2 holds in a step beside activations is what the plan counts: a live engine's bytes at their highest."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from distft.paths import conf_dir
from distft.plan.memory import count_adapters, memory_of, parts_of
from tests.support.ranks import run_ranks

WIDE = {"vocab_size": 49152, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 4}
DEEP = {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 4096, "num_hidden_layers": 6}
TOLERANCE = 0.08  # of the whole; activations of 8 tokens and adapters' gradients on top, a block sent later below
RANK = 8
TARGETS = 6  # of a micro-batch in tests/support/gathered.py: 2 rows of 4 tokens
BYTES = {"bfloat16": 2, "float32": 4}


def case(strategy: str, precision: str, architecture: dict[str, Any], tied: bool, lora: bool) -> dict[str, Any]:
    made: dict[str, Any] = {"model": "llama3_8b", "strategy": strategy, "precision": precision}
    made["architecture"] = architecture | {"tie_word_embeddings": tied}
    return made | ({"lora": {"rank": RANK}} if lora else {})


CASES = [
    case(strategy, precision, WIDE, tied, lora)
    for strategy in ("ddp", "fsdp")
    for precision in BYTES
    for tied in (True, False)
    for lora in (False, True)
] + [case("fsdp", precision, DEEP, False, lora) for precision in BYTES for lora in (False, True)]


def planned(case: dict[str, Any]) -> dict[str, int]:
    """Returns what the plan counts, and what a step needs besides: a chunk of logits, and on a CPU in bf16 the product
    for the head's gradient."""
    values = yaml.safe_load((conf_dir() / "model" / f"{case['model']}.yaml").read_text())
    facts = values["architecture"] | values["tiny_architecture"] | case["architecture"]
    parts = parts_of(None, facts)
    assert parts is not None
    adapters = count_adapters(None, facts, RANK, "all-linear") or 0 if "lora" in case else 0
    compute_bytes = BYTES[case["precision"]]
    counted = memory_of(
        yaml.safe_load((conf_dir() / "strategy" / f"{case['strategy']}.yaml").read_text()),
        parameters=parts.total + adapters,
        trained=adapters or parts.total,
        state_bytes=8,
        compute_bytes=compute_bytes,
        world=2,
        node=2,
        parts=parts,
    )
    assert counted is not None
    product = compute_bytes * parts.head if compute_bytes < 4 and not adapters else 0
    logits = 8 * TARGETS * facts["vocab_size"]  # in the compute dtype, in fp32, and their gradient
    return counted | {"product": product, "logits": logits}


@pytest.mark.slow
def test_a_step_holds_what_the_plan_counts(tmp_path: Path) -> None:
    (tmp_path / "cases.json").write_text(json.dumps(CASES))
    of_ranks = run_ranks(2, "tests.support.gathered", str(tmp_path / "cases.json"))
    for case, *ranks in zip(CASES, *of_ranks, strict=True):
        counted = planned(case)
        expected = sum(counted[part] for part in ("total", "gathered", "product", "logits"))
        for measured in ranks:
            print(f"{measured['peak'] / expected:.3f} {case}")
            assert measured["state"] == pytest.approx(counted["parameters"] + counted["optimizer"], rel=1e-3), case
            assert measured["peak"] == pytest.approx(expected, rel=TOLERANCE), case
