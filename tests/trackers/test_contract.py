"""A tracker never stops the run."""

from pathlib import Path

from distft.run import RunFolder
from distft.trackers.contract import Guarded, numbers

RUN = RunFolder(Path("unused"))


class Failing:
    """Fails at its second row."""

    def __init__(self) -> None:
        self.rows: list[dict] = []
        self.finished: str | None = None

    def start(self, run: RunFolder) -> None:
        self.run = run

    def log(self, row: dict) -> None:
        if self.rows:
            raise ConnectionError("the server is gone")
        self.rows.append(row)

    def finish(self, state: str) -> None:
        self.finished = state


def test_a_failing_tracker_is_told_once_and_left_alone(capsys):
    tracker = Failing()
    guarded = Guarded(tracker)
    guarded.start(RUN)
    for step in range(5):
        guarded.log({"step": step})
    guarded.finish("completed")
    assert tracker.rows == [{"step": 0}] and tracker.finished is None
    told = capsys.readouterr().err
    assert told == "tracker Failing failed, the run goes on without it: the server is gone\n"


def test_no_tracker_takes_everything():
    guarded = Guarded(None)
    guarded.start(RUN)
    guarded.log({"step": 1})
    guarded.finish("failed")


def test_numbers_are_named_by_split_and_text_is_left_out():
    row = {"step": 3, "split": "eval", "loss": 2, "note": "text", "accuracy": 0.5}
    assert numbers(row) == {"eval/loss": 2.0, "eval/accuracy": 0.5}
