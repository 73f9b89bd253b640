"""A micro-batch of `auto` that does not fit is halved, with the same update, until it fits or is one row."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distft.launch.shrinking import Shrinking, halved, size_text
from distft.launchers.contract import Outcome
from distft.run import Plan, RunFolder

PLAN = Plan(
    nodes=1, processes_per_node=2, world=2, micro_batch_size=12, accumulation=1, steps=4, rows=9, eval_rows=0,
    epochs=1.0, tokens=9, estimated=False, parameters=1, model_dir=None, tokenizer_dir=None, data_dir=None, memory={},
)  # fmt: skip


class Ends:
    """A handle whose starts end with the given outcomes, one after another."""

    name, is_part = "run", False

    def __init__(self, outcomes: list[Outcome]) -> None:
        self.outcomes, self.starts = outcomes, 1

    def state(self) -> Any:
        return "running"

    def wait(self, seconds: float) -> Outcome | None:
        return self.outcomes[self.starts - 1]

    def cancel(self) -> None: ...

    def start_again(self) -> None:
        self.starts += 1


def full() -> Outcome:
    return Outcome("failed", {"type": "OutOfMemory", "message": "out of memory", "rank": 0, "host": "vm", "log": None})


def test_halving_keeps_the_update() -> None:
    sizes = []
    plan: Plan | None = PLAN
    while plan:
        sizes.append((plan.micro_batch_size, plan.accumulation))
        plan = halved(plan, 64)
    assert sizes == [(12, 1), (6, 2), (3, 4), (1, 12)] and {rows * times for rows, times in sizes if rows} == {12}
    tokens = replace(PLAN, micro_batch_size=None, micro_batch_tokens=200)
    once = halved(tokens, 64)
    assert once and once.micro_batch_tokens == 100
    twice = halved(once, 64)
    assert twice and twice.micro_batch_tokens == 64 and halved(twice, 64) is None, "a row is never cut"


def test_a_run_that_does_not_fit_starts_again_with_half(tmp_path: Path, capsys: Any) -> None:
    run, done = RunFolder(tmp_path), Outcome("completed")
    run.write_plan(PLAN)
    run.write_status(state="running", attempt=1)
    inner = Ends([full(), full(), done])
    handle = Shrinking(inner, run, 64)
    assert handle.wait(0) is None and handle.wait(0) is None and handle.wait(0) is done
    assert inner.starts == 3 and run.read_plan().micro_batch_size == 3 and run.read_status()["attempt"] == 3
    assert "12 rows per forward do not fit, now 6 rows per forward" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["NonFinite", "RuntimeError"])
def test_other_failures_are_passed_on(kind: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_plan(PLAN)
    outcome = Outcome("failed", {"type": kind, "message": "", "rank": 0, "host": "vm", "log": None})
    assert Shrinking(Ends([outcome]), run, 64).wait(0) is outcome and run.read_plan() == PLAN


def test_one_row_that_does_not_fit_ends_the_run(tmp_path: Path) -> None:
    run, outcome = RunFolder(tmp_path), full()
    run.write_plan(replace(PLAN, micro_batch_size=1))
    assert Shrinking(Ends([outcome]), run, 64).wait(0) is outcome
    assert size_text(run.read_plan()) == "1 row per forward"
