"""A stop request is for one attempt; a stop file made by hand is for any."""

from distft.run import RunFolder
from distft.runtime import stop


def test_a_request_reaches_its_attempt_only(tmp_path):
    run = RunFolder(tmp_path)
    assert stop.requested(run, 1) is None
    stop.request(run, 1, "SIGTERM")
    assert stop.requested(run, 1) == stop.reason_of(run, 1) == "SIGTERM"
    assert stop.requested(run, 2) is None


def test_a_stop_file_made_by_hand_counts_with_its_text(tmp_path):
    run = RunFolder(tmp_path)
    run.stop.touch()
    assert str(run.stop) in (stop.requested(run, 7) or "")
    assert stop.reason_of(run, 7) == "by you, with the file stop"
    run.stop.write_text("need the machine\n")
    assert stop.requested(run, 7) == "need the machine"
    assert stop.reason_of(run, 7) == "by you, with the file stop: need the machine"
    run.stop.write_text("3")
    assert stop.requested(run, 7) == "3"


def test_a_cleared_request_is_gone(tmp_path):
    run = RunFolder(tmp_path)
    stop.clear(run)
    stop.request(run, 1, "why")
    stop.clear(run)
    assert stop.requested(run, 1) is None
