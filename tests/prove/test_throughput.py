"""Measurements are compared with the plan, and a CPU reports only what it can measure."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distft.prove.jobs import MEASURED, TRACED, WARM
from distft.prove.place import Machine, Place
from distft.prove.throughput import SPEEDS, lines, lines_of, nothing_of, settings, too_large
from distft.run import Plan
from tests.prove.made import place

PLAN: Any = Plan(
    nodes=1, processes_per_node=1, world=1, micro_batch_size=None, accumulation=1, steps=9, rows=9, eval_rows=0,
    epochs=1.0, tokens=9, estimated=False, parameters=100, model_dir=None, tokenizer_dir=None, data_dir=None,
    memory={"ddp": {"parameters": 400, "gradients": 400, "optimizer": 800, "total": 1600, "host": 0, "peak": 2**30}},
)  # fmt: skip
FOUND: dict[str, Any] = {
    "tokens": 8000, "seconds": 2.0, "processes": 2, "steps": 4, "first_step_seconds": 1.0, "ready_seconds": 1.0,
    "effective": {"attention": "varlen"},
    "losses": [1.0], "flops": 4e14, "peak_flops": None, "peak_source": None, "peak_gib": 1.0, "reserved_gib": 1.2,
    "held_bytes": 1600, "strategy": "ddp",
}  # fmt: skip
ON_DEVICE = {
    "peak_flops": 9.89e14, "peak_source": "a data sheet", "waits_per_step": 1.0, "waits": {"cudaStreamSynchronize": 2},
    "waits_elsewhere": 0, "idle_share": 0.02, "kinds": {"products": 1.0}, "longest": [["nvjet", 1.0, 3]],
}  # fmt: skip


def gpu(out: Path) -> Place:
    return Place(out, Machine("cuda", "a GPU", 1, 16), 0.0)


def by_name(where: Place, found: dict[str, Any]) -> dict[str, Any]:
    return {line.check: line for line in lines("x.", SPEEDS[0], found, PLAN, where)}


def test_a_cpu_reports_no_mfu_syncs_or_idle_time(tmp_path: Path) -> None:
    found = by_name(place(tmp_path), FOUND)
    assert found["x.tokens_per_second"].value == 2000  # of each process
    assert "H200" not in found["x.tokens_per_second"].text
    assert {n for n, line in found.items() if line.status == "skipped"} == {
        "x.mfu",
        "x.host_waits",
        "x.idle_share",
        "x.planned_peak",
    }


def test_a_device_reports_mfu_syncs_and_idle_time(tmp_path: Path) -> None:
    found = by_name(gpu(tmp_path), FOUND | ON_DEVICE)
    assert {line.status for line in found.values()} == {"pass"}
    assert found["x.mfu"].value == pytest.approx(4e14 / 2 / 2 / 9.89e14)
    assert "H200" in found["x.tokens_per_second"].text


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"waits_per_step": 1.5}, "host_waits"),
        ({"held_bytes": 1700}, "memory"),
        ({"flops": 1e16}, "mfu"),
        ({"peak_gib": 1.2}, "planned_peak"),
    ],
    ids=["waits", "memory", "impossible", "peak"],
)
def test_a_missed_target_fails(change: dict[str, Any], check: str, tmp_path: Path) -> None:
    found = by_name(gpu(tmp_path), FOUND | ON_DEVICE | change)
    assert [name for name, line in found.items() if line.status == "fail"] == [f"x.{check}"]


def test_a_device_gets_real_shapes_and_a_cpu_small_ones(tmp_path: Path) -> None:
    for where, width in ((gpu(tmp_path), 4096), (place(tmp_path), 128)):
        overrides, rows, facts = settings(where, SPEEDS[0])
        assert facts["hidden_size"] == width and rows.vocabulary == facts["vocab_size"]
        assert f"train.max_steps={WARM + 4 + TRACED}" in overrides
    assert MEASURED.endswith(".json")


def test_every_run_has_its_own_names(tmp_path: Path) -> None:
    words = tuple(dict.fromkeys(speed.word for speed in SPEEDS))
    names = lines_of(gpu(tmp_path), words)
    assert len(names) == len(set(names)) == 7 * len(SPEEDS)
    assert {"lora_8b.memory", "lora_8b.compiled.mfu"} < set(names)


def test_a_failed_run_is_one_failure_and_the_rest_not_run() -> None:
    first, *others = nothing_of("x.", "out of memory")
    assert (first.check, first.status, first.text) == ("x.tokens_per_second", "fail", "out of memory")
    assert {(line.status, line.text) for line in others} == {("not_run", "the run failed: see x.tokens_per_second")}
    assert {line.status for line in nothing_of("x.", "")} == {"not_run"}


@pytest.mark.parametrize(("gib", "fits"), [(80.0, False), (141.0, True), (None, True)])
def test_a_model_that_cannot_fit_is_not_tried(gib: float | None, fits: bool, tmp_path: Path) -> None:
    where, parts = gpu(tmp_path), {"parameters": 32, "gradients": 32, "optimizer": 64, "host": 0}
    where.machine.facts.update({} if gib is None else {"device_memory_gib": gib})
    plan = replace(PLAN, memory={"ddp": {name: size * 2**30 for name, size in parts.items()}})
    assert (too_large(plan, "ddp", where) == "") == fits
    if not fits:
        assert too_large(plan, "ddp", where) == "weights, gradients and optimizer need 128 GiB, a device has 80"
