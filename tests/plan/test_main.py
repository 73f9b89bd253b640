"""`python -m distft.plan` prints and writes the plan within 3 seconds of a core, without torch and transformers."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cost import seconds_of_children
from tests.support.warm import python

HEAVY = ("torch", "transformers", "datasets", "deepspeed")


@pytest.fixture
def right(tmp_path: Path) -> list[str]:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 40)
    return [f"data.train={tmp_path}/rows.jsonl", f"cache_dir={tmp_path}/cache", "experiment=four_nodes_8b"]


def plan(*arguments: str, interpreter: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    line = [*((sys.executable, *interpreter) if interpreter else (python(),)), "-m", "distft.plan", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_plan_imports_nothing_heavy(right: list[str]):
    before = seconds_of_children()
    done = plan(*right, interpreter=("-X", "importtime"))
    assert seconds_of_children() - before < 3
    assert done.returncode == 0, done.stderr[-2000:]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert imported.isdisjoint(HEAVY)


@pytest.mark.slow
def test_the_plan_prints_and_writes_the_same_numbers(right: list[str], tmp_path: Path):
    done = plan(*right, "memory_gib=30", f"out={tmp_path}/plan.json")
    written = json.loads((tmp_path / "plan.json").read_text())
    assert done.returncode == 0, done.stderr
    assert "128 rows, about up to 8,192 tokens x 32 processes x " in done.stdout
    assert (written["world"], written["accumulation"], written["parameters"]) == (32, 1, 8_030_261_248)
    assert f"{written['parameters']:,} parameters" in done.stdout and "of activations" in done.stdout
    rows = {line.split("│")[1].strip(): line for line in done.stdout.splitlines() if line.startswith("│")}
    assert "does not fit" in rows["ddp"] and "host memory" in rows["zero3_offload"]
    assert f"{written['memory']['hsdp']['gathered'] / 2**30:.2f}" in rows["> hsdp"]
    assert f"{written['memory']['hsdp']['peak'] / 2**30:.2f}" in rows["> hsdp"]


@pytest.mark.slow
def test_json_is_what_out_writes(right: list[str], tmp_path: Path):
    done = plan(*right, "--json", f"out={tmp_path}/plan.json")
    assert json.loads(done.stdout) == json.loads((tmp_path / "plan.json").read_text()), done.stderr


@pytest.mark.slow
def test_gathered_parameters_must_fit_too(right: list[str], tmp_path: Path):
    done = plan(*right, "memory_gib=20", f"out={tmp_path}/plan.json")
    [row] = [line for line in done.stdout.splitlines() if "> hsdp" in line]
    of = json.loads((tmp_path / "plan.json").read_text())["memory"]["hsdp"]
    assert of["total"] < 20 * 2**30 < of["total"] + of["gathered"] < of["peak"] and "does not fit" in row


@pytest.mark.parametrize("wrong", ["memory_gib=lots", "memory_gib=-1", "memory_gb=80"])
@pytest.mark.slow
def test_the_keys_of_plan_are_checked(wrong: str, right: list[str]):
    done = plan(*right, wrong)
    assert done.returncode == 2 and wrong in done.stderr and re.search("(Did you mean|Try:) memory_gib", done.stderr)
