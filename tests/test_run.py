"""The files of a run folder survive what may happen to them.

metrics.jsonl holds each step once, also over restarts and cut lines.
"""

import json
import math
from pathlib import Path

import pytest

from distft.run import MetricsLog, RunFolder, read_json, state_in_words, write_json


@pytest.mark.parametrize("left", ["", "{", "{}\n{"], ids=["empty", "cut", "torn"])
def test_a_status_that_a_loss_of_power_left_empty_keeps_the_attempts_apart(tmp_path: Path, left: str) -> None:
    run = RunFolder(tmp_path)
    assert run.read_status()["attempt"] == 0
    for attempt in (1, 2, 10):
        run.rank_log(attempt, 0).parent.mkdir(parents=True)
    run.status.write_text(left)
    empty = {"state": None, "step": 0, "exit_code": None, "error": None, "reason": None}
    assert run.read_status() == empty | {"attempt": 10}
    run.write_status(state="pending", attempt=11)
    assert run.read_status()["attempt"] == 11


def test_a_reason_is_of_one_state_and_goes_with_it(tmp_path: Path) -> None:
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
def test_what_a_user_stopped_is_not_told_as_preempted(state: str | None, reason: str | None, words: str) -> None:
    assert state_in_words({"state": state, "reason": reason}) == words


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_restart_drops_what_it_will_make_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    for step in range(1, 6):
        log.write({"step": step})
    path.open("a").write('{"step": 6, "lo')
    again = MetricsLog(path, 3)
    again.write({"step": 4})
    assert steps(path) == [1, 2, 3, 4]


def test_a_run_that_begins_again_evaluates_the_model_before_its_first_step_again(tmp_path: Path) -> None:
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


def test_numbers_that_are_not_finite_are_null_with_a_reason_and_read_back(tmp_path: Path) -> None:
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
def test_every_file_of_json_is_strict(value: object, tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"step": 1, "value": value})
    assert "null" in (text := (tmp_path / "x.json").read_text()) and "NaN" not in text and "Infinity" not in text
    assert read_json(tmp_path / "x.json")["step"] == 1
