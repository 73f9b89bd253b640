"""The files of a run folder survive what may happen to them."""

from pathlib import Path

import pytest

from distft.run import RunFolder


@pytest.mark.parametrize("left", ["", "{", "{}\n{"], ids=["empty", "cut", "torn"])
def test_a_status_that_a_loss_of_power_left_empty_keeps_the_attempts_apart(tmp_path: Path, left: str) -> None:
    run = RunFolder(tmp_path)
    assert run.read_status()["attempt"] == 0
    for attempt in (1, 2, 10):
        run.rank_log(attempt, 0).parent.mkdir(parents=True)
    run.status.write_text(left)
    assert run.read_status() == {"state": None, "step": 0, "attempt": 10, "exit_code": None, "error": None}
    run.write_status(state="pending", attempt=11)
    assert run.read_status()["attempt"] == 11
