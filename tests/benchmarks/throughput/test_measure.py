"""Rates are over all steps after the warm-up, whatever else the rows hold; a measured run is not run again."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.throughput.measure import Failed, measured, summary


def row(step: int, seconds: float, **more: Any) -> dict:
    found = {"step": step, "tokens": 100, "target_tokens": 10, "seconds": seconds, "loss": 2.0, "peak_memory_gib": step}
    return found | more


def test_the_rate_is_over_all_steps_after_the_warm_up():
    found = summary([row(1, 50.0), row(2, 1.0), row(3, 3.0)], warmup=1)
    assert found["tokens_per_second"] == 50.0 and found["steps"] == 2 and found["peak_memory_gib"] == 3
    assert "mfu" not in found and found["phases"] == {}


def test_phases_are_summed_and_mfu_weighs_by_time():
    first = row(1, 1.0, mfu=0.9, phases={"data": 9.0}, between={"evaluation": 9.0})
    rows = [
        row(2, 1.0, mfu=0.4, phases={"data": 0.1}, between={"evaluation": 0.5}),
        row(3, 3.0, mfu=0.8, phases={"data": 0.2}),
    ]
    found = summary([first, *rows], warmup=1)
    assert found["mfu"] == pytest.approx(0.7)
    assert found["phases"] == {"data": pytest.approx(0.3), "evaluation": 0.5}


def test_a_run_shorter_than_its_warm_up_has_no_rate():
    with pytest.raises(Failed, match="1 steps were trained, 1 of them for warm-up"):
        summary([row(1, 1.0)], warmup=1)


def test_a_run_that_was_measured_is_read_and_not_run(tmp_path: Path):
    (tmp_path / "run.json").write_text(json.dumps({"tokens_per_second": 7}))
    assert measured(tmp_path / "run", ["no.such.key=1"], 1, None) == {"tokens_per_second": 7}


def test_an_invalid_point_fails_with_the_rule(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    overrides = [f"data.train={tmp_path / 'rows.jsonl'}", "model.tiny=true", "train.global_batch_size=5"]
    overrides += ["train.micro_batch_size=4"]
    with pytest.raises(Failed, match="train.global_batch_size=5 is not a multiple of 4"):
        measured(tmp_path / "run", overrides, 1, None)
    assert not (tmp_path / "run.json").exists()
