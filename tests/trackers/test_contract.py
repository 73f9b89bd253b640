"""A tracker never stops the run."""

import threading
import time
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


def test_a_failing_tracker_is_reported_once_and_dropped(capsys):
    tracker = Failing()
    guarded = Guarded(tracker)
    guarded.start(RUN)
    for step in range(5):
        guarded.log({"step": step})
    guarded.finish("completed")
    assert tracker.rows == [{"step": 0}] and tracker.finished is None
    output = capsys.readouterr().err
    assert output == "tracker Failing failed: the server is gone; the run continues without it\n"


class Hanging(Failing):
    """Never comes back from its first row."""

    def log(self, row: dict) -> None:
        self.rows.append(row)
        threading.Event().wait()


def test_a_hanging_tracker_delays_no_row_and_is_dropped(capsys, monkeypatch):
    monkeypatch.setattr(Guarded, "SECONDS_TO_FINISH", 0.2)
    tracker = Hanging()
    guarded = Guarded(tracker)
    guarded.start(RUN)
    for step in range(1000):
        guarded.log({"step": step})
    guarded.finish("completed")
    assert tracker.rows == [{"step": 0}] and tracker.finished is None
    output = capsys.readouterr().err
    assert output == "tracker Hanging has not finished within 0 s; the run continues without it\n"


def test_a_tracker_that_takes_nothing_does_not_fill_the_memory(capsys, monkeypatch):
    monkeypatch.setattr(Guarded, "MAX_QUEUED", 10)
    guarded = Guarded(Hanging())
    guarded.start(RUN)
    for step in range(1000):
        guarded.log({"step": step})
    assert guarded._calls.qsize() < 15
    guarded.finish("completed")
    assert capsys.readouterr().err.count("the run continues without it") == 1


def test_a_slow_tracker_gets_every_row_in_order_and_the_end():
    class Slow(Failing):
        def log(self, row: dict) -> None:
            time.sleep(0.002)
            self.rows.append(row)

    tracker = Slow()
    guarded = Guarded(tracker)
    guarded.start(RUN)
    for step in range(50):
        guarded.log({"step": step})
    guarded.finish("completed")
    assert [row["step"] for row in tracker.rows] == list(range(50)) and tracker.finished == "completed"


def test_numbers_are_named_by_split_and_text_is_left_out():
    row = {"step": 3, "split": "eval", "loss": 2, "note": "text", "accuracy": 0.5}
    assert numbers(row) == {"eval/loss": 2.0, "eval/accuracy": 0.5}
