"""The files of a run folder survive what may happen to them."""

from pathlib import Path

import pytest

from distft.run import RunFolder, state_in_words


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
