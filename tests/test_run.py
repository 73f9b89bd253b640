"""The files of a run folder survive crashes and restarts.

metrics.jsonl holds each step once, also over restarts and cut lines.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from distft.run import Plan, RunFolder, read_json, state_in_words, write_json
from distft.train.progress import MetricsLog


@pytest.mark.parametrize("left", ["", "{", "{}\n{"], ids=["empty", "cut", "torn"])
def test_an_empty_status_keeps_attempts_distinct(tmp_path: Path, left: str) -> None:
    run = RunFolder(tmp_path)
    assert run.read_status()["attempt"] == 0
    for attempt in (1, 2, 10):
        run.rank_log(attempt, 0).parent.mkdir(parents=True)
    run.status.write_text(left)
    empty = {"state": None, "step": 0, "exit_code": None, "error": None, "reason": None}
    assert run.read_status() == empty | {"attempt": 10}
    run.write_status(state="pending", attempt=11)
    assert run.read_status()["attempt"] == 11


def test_a_reason_is_removed_with_its_state(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_status(state="preempted", reason="by you, with Ctrl-C")
    run.write_status(timeouts=1)
    assert run.read_status()["reason"] == "by you, with Ctrl-C"
    run.write_status(state="pending")
    assert run.read_status()["reason"] is None


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        (None, None, "not started"),
        ("stopped_early", None, "stopped early"),
        ("preempted", None, "preempted"),
        ("preempted", "SLURM sent SIGTERM", "preempted (SLURM sent SIGTERM)"),
        ("preempted", "by you, with scancel", "stopped by you, with scancel"),
        ("failed", "by you, with Ctrl-C", "failed, stopped by you, with Ctrl-C"),
    ],
)
def test_a_run_stopped_by_a_user_is_not_preempted(state: str | None, reason: str | None, words: str) -> None:
    assert state_in_words({"state": state, "reason": reason}) == words


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_restart_drops_rows_that_it_repeats(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    for step in range(1, 6):
        log.write({"step": step})
    path.open("a").write('{"step": 6, "lo')
    again = MetricsLog(path, 3)
    again.write({"step": 4})
    assert steps(path) == [1, 2, 3, 4]


def test_a_restarted_run_repeats_the_first_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for _ in range(2):
        log = MetricsLog(path, 0)
        for step in (0, 1):
            log.write({"step": step})
    assert steps(path) == [0, 1] == [row["step"] for row in MetricsLog(path, 0).dropped]
    assert steps(path) == []


def test_a_row_is_on_disk_when_write_returns(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    log.write({"step": 1})
    assert steps(tmp_path / "metrics.jsonl") == [1]


def test_non_finite_values_are_null_with_a_reason(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    row = {"step": 1, "split": "train", "loss": float("nan"), "grad_norm": float("inf"), "phases": {"data": -math.inf}}
    MetricsLog(run.metrics, 0).write(row | {"mfu": None})

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    strict = json.loads(run.metrics.read_text(), parse_constant=refuse)
    assert (strict["loss"], strict["grad_norm"], strict["phases"], strict["mfu"]) == (None, None, {"data": None}, None)
    assert strict["reason"] == {"loss": "NaN", "grad_norm": "Infinity", "phases.data": "-Infinity"}
    [read] = run.read_metrics("train")
    assert math.isnan(read["loss"]) and read["grad_norm"] == math.inf and read["phases"] == {"data": -math.inf}
    assert read["mfu"] is None and "reason" not in read
    MetricsLog(run.metrics, 1)
    assert json.loads(run.metrics.read_text(), parse_constant=refuse) == strict, "a restart keeps the row as it is"
    run.metrics.write_text('{"step": 1, "split": "train", "loss": NaN}\n')
    assert math.isnan(next(run.read_metrics())["loss"]), "of an older version"


@pytest.mark.parametrize("value", [math.inf, [1.0, {"a": math.nan}], {"loss": -math.inf}])
def test_every_json_file_is_strict_json(value: object, tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"step": 1, "value": value})
    assert "null" in (text := (tmp_path / "x.json").read_text()) and "NaN" not in text and "Infinity" not in text
    assert read_json(tmp_path / "x.json")["step"] == 1


def test_unknown_keys_of_a_newer_plan_are_ignored(tmp_path: Path) -> None:
    fields: dict[str, Any] = dict.fromkeys(Plan.__dataclass_fields__, 0)
    run = RunFolder(tmp_path)
    write_json(run.plan, fields | {"of_a_newer_version": 1})
    assert run.read_plan() == Plan(**fields)
