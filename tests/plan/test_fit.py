"""`auto` chooses the largest micro-batch that fits, freezes it in the plan, and leaves the update as it is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distft.config import ConfigError, compose
from distft.launch.stages import check_fits
from distft.plan import fit, make, make_plan
from distft.plan.activations import Batch, activation_bytes
from distft.plan.fit import GIB, Room, rows_that_fit, tokens_that_fit, too_large


@pytest.fixture
def rows(tmp_path: Path) -> list[str]:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a b c d e f g"}\n' * 400)
    places = [f"data.train={file}", f"cache_dir={tmp_path}", "data.eval=null", "model=gpt2", "model.tiny=true"]
    return [*places, "data.max_length=64", "train.max_steps=4", "launcher.processes_per_node=2"]


def test_more_memory_and_less_state_fit_more_tokens() -> None:
    large, small = Room(80 * GIB, 20 * GIB, True), Room(40 * GIB, 20 * GIB, True)
    assert tokens_that_fit(large, 10**6) > 2 * tokens_that_fit(small, 10**6) > 0
    assert tokens_that_fit(Room(16 * GIB, 20 * GIB, True), 10**6) == 0


def test_rows_divide_the_step_evenly() -> None:
    assert (
        rows_that_fit(1000, 100, 24) == 8 and rows_that_fit(1000, 100, 7) == 7 and rows_that_fit(1000, 100, None) == 10
    )
    assert rows_that_fit(1000, 100, 11) == 1 and rows_that_fit(99, 100, 8) == 0


@pytest.mark.parametrize("gib", [1, 2, 8])
def test_the_plan_holds_the_largest_that_fits(gib: int, rows: list[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(make, "device_bytes", lambda node: (gib * GIB // 8, False))
    config = compose([*rows, "train.micro_batch_size=auto", "train.global_batch_size=96"])
    plan = make_plan(config)
    assert plan.micro_batch_size and 48 % plan.micro_batch_size == 0 and plan.micro_batch_tokens is None
    assert plan.accumulation * plan.micro_batch_size * 2 == 96
    room = Room(gib * GIB // 8, sum(plan.memory["ddp"][key] for key in ("total", "gathered")), False)
    fits = tokens_that_fit(room, activation_bytes(config.model.facts, Batch(1, 4, "none", is_accelerator=False))) // 64
    larger = [each for each in range(plan.micro_batch_size + 1, 49) if 48 % each == 0]
    assert plan.micro_batch_size <= fits and all(each > fits for each in larger)


def test_tokens_are_at_least_a_row_and_at_most_a_step(rows: list[str], monkeypatch: Any) -> None:
    typed = [*rows, "train.micro_batch_tokens=auto"]
    plan = make_plan(compose([*typed, "train.global_batch_size=96"]))
    assert plan.micro_batch_size is None and plan.micro_batch_tokens and plan.micro_batch_tokens >= 64
    assert plan.accumulation == 1, "the whole step of a process, on a machine with room for it"
    monkeypatch.setattr(make, "device_bytes", lambda node: (2**20, False))
    with pytest.raises(
        ConfigError, match=r"micro_batch_tokens=auto: a row of 64 tokens does not fit: .* Try: strategy=fsdp"
    ):
        make_plan(compose(typed))


@pytest.mark.slow
def test_a_clusters_memory_is_not_guessed(rows: list[str]) -> None:
    with pytest.raises(
        ConfigError, match=r"memory of the nodes of launcher=slurm is not known .* Try: train.micro_batch_size=4"
    ):
        make_plan(compose([*rows, "train.micro_batch_size=auto", "launcher=slurm"]))


def test_state_that_no_process_here_can_hold_is_refused(rows: list[str], monkeypatch: Any) -> None:
    config = compose(rows)
    plan = make_plan(config)
    check_fits(config, plan)
    large = replace(plan, memory={"ddp": {"total": 10**15, "host": 0}})
    with pytest.raises(ConfigError, match=r"strategy=ddp: weights, gradients and optimizer need 931322.6 GiB, .* Try:"):
        check_fits(config, large)
    check_fits(config, replace(large, nodes=2))
    check_fits(config, replace(plan, memory={"ddp": {"total": 10**15, "host": 10**15}}))
    monkeypatch.setattr(fit, "_nvidia", lambda: [80 * GIB, 40 * GIB])
    assert too_large(60 * GIB, 2) == "weights, gradients and optimizer need 60.0 GiB, a device has 40.0"
    assert not too_large(40 * GIB, 2)
