"""metrics.jsonl holds each step once, also over restarts and cut lines."""

import json
from pathlib import Path

from distft.runtime.metrics import MetricsLog


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
