"""Tiny runs are judged by their numbers, and a case that ends its process fails alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distft.config.schema import KEYS
from distft.prove.place import Machine, Place
from distft.prove.series import STEPS, Case, Series, batch_of, follow
from distft.prove.training import LIMITS, all_kernels, apart, cases, judge, lines_of, spread
from distft.run import RunFolder
from tests.prove.made import place

NUMBERS = [(10.0 - step, 1.0 + step) for step in range(STEPS)]
CASE = Case("strategies.fsdp.fp32", ("strategy=fsdp",), "fp32")


def write(run: RunFolder, numbers: Any) -> RunFolder:
    run.path.mkdir(parents=True, exist_ok=True)
    rows = [{"split": "train", "step": i, "loss": loss, "grad_norm": norm} for i, (loss, norm) in enumerate(numbers)]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_the_largest_distance_of_any_loss_or_norm_decides() -> None:
    assert apart(NUMBERS, NUMBERS) == 0
    off = [*NUMBERS[:-1], (NUMBERS[-1][0], NUMBERS[-1][1] * 1.01)]
    assert apart(off, NUMBERS) == pytest.approx(0.01)
    assert apart(NUMBERS[:-1], NUMBERS) == float("inf")
    assert apart([*NUMBERS[:-1], (float("nan"), 1.0)], NUMBERS) == float("inf")


@pytest.mark.parametrize(("factor", "status"), [(0.5, "pass"), (2.0, "fail")])
def test_a_run_is_judged_by_its_distance(factor: float, status: str, tmp_path: Path) -> None:
    numbers = [(loss * (1 + factor * LIMITS["fp32"]), norm) for loss, norm in NUMBERS]
    run = write(RunFolder(tmp_path), numbers)
    line = judge(CASE, {"state": "done"}, run, {"reference": NUMBERS}, None)  # type: ignore[arg-type]
    assert line.status == status and line.value == pytest.approx(factor * LIMITS["fp32"])


def test_a_case_without_a_result_was_not_run(tmp_path: Path) -> None:
    assert judge(CASE, None, RunFolder(tmp_path), {}, None).status == "not_run"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ({"from_alone": 1e-7, "changed_by_neighbours": [], "finite": True}, "pass"),
        ({"from_alone": 1e-3, "changed_by_neighbours": [], "finite": True}, "fail"),
        ({"from_alone": 1e-7, "changed_by_neighbours": [2], "finite": True}, "fail"),
        ({"from_alone": 1e-7, "changed_by_neighbours": [], "finite": False}, "fail"),
    ],
)
def test_isolation_needs_equal_bits_and_near_logits(found: dict[str, Any], status: str, tmp_path: Path) -> None:
    case = replace(CASE, check="attention.sdpa.isolation", kind="isolate")
    line = judge(case, {"state": "done", **found}, RunFolder(tmp_path), {}, None)  # type: ignore[arg-type]
    assert line.status == status


@pytest.mark.parametrize(
    ("changed", "differ", "status"), [(9, 0, "pass"), (9, 1, "fail"), (0, 0, "fail")], ids=["same", "differ", "idle"]
)
def test_a_background_save_that_proves_nothing_fails(changed: int, differ: int, status: str, tmp_path: Path) -> None:
    case = replace(CASE, check="options.background_save", kind="save_in_background")
    found = {"state": "done", "tensors": 9, "changed_by_next_step": changed, "differ": differ}
    assert judge(case, found, RunFolder(tmp_path), {}, None).status == status  # type: ignore[arg-type]


def test_the_spread_names_the_two_extremes(tmp_path: Path) -> None:
    near, far = ([(loss * (1 + off), norm) for loss, norm in NUMBERS] for off in (1e-6, 1e-4))
    runs = {"ddp": NUMBERS, "fsdp": near, "zero2": far}
    done = {f"strategies.{n}.fp32": write(RunFolder(tmp_path / n), numbers) for n, numbers in runs.items()}
    fp32, bf16 = spread(done)
    assert fp32.status == "fail" and fp32.value == pytest.approx(1e-4, rel=0.02)
    assert "strategies.ddp.fp32, strategies.zero2.fp32" in fp32.text
    assert bf16.status == "fail" and "0 strategies finished" in bf16.text


def test_every_strategy_in_each_precision_is_a_case(tmp_path: Path) -> None:
    here, words = place(tmp_path), ("strategies", "attention", "options")
    names = lines_of(here, words)
    assert {f"strategies.{s}.{p}" for s in ("ddp", "hsdp", "zero3_offload") for p in ("fp32", "bf16")} < set(names)
    assert {"attention.varlen.isolation", "options.background_save", "strategies.spread.bf16"} < set(names)
    assert len(names) == len(set(names))
    assert {case.check for case in cases(here, words)} < set(names)
    gpu = Place(tmp_path, Machine("cuda", "a GPU", 1, 16), 0.0)
    assert lines_of(gpu, words) == names and {case.check for case in cases(gpu, words)} < set(names)
    assert {case.check for case in cases(here, ("attention",))} == {
        f"attention.{kernel}.{part}" for kernel in ("eager", "sdpa") for part in ("training", "isolation")
    }


@pytest.mark.slow
@pytest.mark.soak
def test_a_case_that_ends_its_process_fails_alone(tmp_path: Path) -> None:
    given = [Case(f"options.{name}", ("strategy=ddp",), "fp32") for name in ("first", "broken", "last")]
    here = place(tmp_path)
    spoilt = tmp_path / "work" / "runs" / "options-broken" / "plan.json"

    class Spoilt(Series):
        def _begin(self) -> None:
            spoilt.write_text(spoilt.read_text().replace(f'"steps": {STEPS}', f'"steps": {STEPS + 1}'))
            super()._begin()

    series = Spoilt(here, "series", given)
    follow(here, [series])
    assert {name: each["state"] for name, each in series.done.items()} == {
        "options.first": "done",
        "options.broken": "failed",
        "options.last": "done",
    }
    assert f"the data gives {STEPS} steps, the plan says {STEPS + 1}" in series.done["options.broken"]["error"]
    assert series.attempt == 2


@pytest.mark.parametrize("devices", [1, 2, 3, 4, 8])
def test_any_number_of_devices_shares_the_batch_of_the_reference(devices: int, tmp_path: Path) -> None:
    where = Place(tmp_path, Machine("cuda", "a GPU", devices, 16), 0.0)
    (rows, micro), (same, of_reference) = batch_of(where), batch_of(where, world=1)
    assert rows == same
    number = [int(text.partition("=")[2]) for text in (rows, micro, of_reference)]
    assert number[0] == 2 * devices * number[1] == 2 * number[2] and number[1] > 0


def test_every_kernel_choice_of_the_config_is_proven(tmp_path: Path) -> None:
    """auto is one of the others."""
    [key] = [key for key in KEYS if key.path == "model.attention"]
    assert {*all_kernels(place(tmp_path)), "auto"} == set(key.choices)
