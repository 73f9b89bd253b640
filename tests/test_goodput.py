"""Every second of a run is accounted for once, however its attempts end."""

import json
from pathlib import Path
from typing import Any

import pytest

from distft.goodput import PARTS, Goodput, account, goodput_of, lost_of, note, read_timeline, write_goodput
from distft.run import RunFolder, read_json
from tests.support.fake_run import freeze

FAILED = {"event": "ended", "attempt": 1, "state": "failed"}


def row(step: int, when: float, evaluation: float = 0.0, checkpoint: float = 0.0, **more: Any) -> dict[str, Any]:
    """Returns the row of a step of a second, a tenth of which was waited for data, that ended at `when`."""
    between = {"evaluation": evaluation, "checkpoint": checkpoint}
    own = {"step": step, "split": "train", "seconds": 1.0, "phases": {"data": 0.1, "forward": 0.5}}
    return own | {"between": between, "time": when} | more


def run_of(folder: Path, turns: list[dict[str, Any]], rows: list[dict[str, Any]], saved: int = 0) -> RunFolder:
    run = freeze(folder / "run", checkpoint={"every_steps": 2})
    (run.path / "timeline.jsonl").write_text("".join(json.dumps({"attempt": 1} | each) + "\n" for each in turns))
    run.metrics.write_text("".join(json.dumps(each) + "\n" for each in rows))
    run.checkpoints.mkdir()
    if saved:
        (run.checkpoints / "latest").symlink_to(f"step-{saved:08d}")
    return run


def turn(event: str, when: float, **about: Any) -> dict[str, Any]:
    return {"event": event, "time": when} | about


def parts(run: RunFolder) -> tuple[dict[str, float], Goodput]:
    """Returns the parts that are not nothing."""
    found = account(run)
    assert found is not None and tuple(found.seconds) == PARTS
    return {part: pytest.approx(seconds) for part, seconds in found.seconds.items() if seconds > 1e-9}, found


def test_a_run_without_a_fault(tmp_path: Path):
    turns = [turn("submitted", 0), turn("begun", 5), turn("training", 9, step=0, lost=None)]
    turns += [turn("trained", 18.5, step=4), turn("saved", 19), turn("ended", 20, state="completed")]
    rows = [{"step": 0, "split": "eval", "time": 10.0}, row(1, 11.5), row(2, 12.5)]  # half a second at the first border
    rows += [row(3, 15.5, evaluation=1.5, checkpoint=0.5), row(4, 16.5), {"step": 4, "split": "eval", "time": 17.5}]
    found, goodput = parts(run_of(tmp_path, turns, rows, saved=4))
    assert found == {
        "queue": 5, "start": 5, "evaluation": 3.5, "checkpoint": 2, "border": 0.5, "data": 0.4, "productive": 3.6
    }  # fmt: skip
    assert goodput.wall_seconds == pytest.approx(20) and goodput.share == pytest.approx(3.6 / 20)
    assert (goodput.saves, goodput.failures, goodput.lost_steps) == (2, 0, 0)
    assert goodput.best_interval_seconds is None, "there was no failure to measure by"


def test_device_hours_are_those_in_which_processes_held_devices(tmp_path: Path):
    """An attempt that never trained counts as the next one; time in a queue or without an attempt does not count."""
    turns = [turn("submitted", 0), turn("begun", 100), turn("training", 110, step=0, lost=None, world=8)]
    turns += [turn("trained", 120, step=2), turn("ended", 130, state="preempted")]
    second = [turn("submitted", 1000), turn("begun", 1050), turn("ended", 1060, state="failed")]
    third = [turn("submitted", 2000), turn("begun", 2010), turn("training", 2020, step=2, lost=None, world=4)]
    third += [turn("trained", 2032, step=4), turn("ended", 2040, state="completed")]
    turns += [each | {"attempt": 2} for each in second] + [each | {"attempt": 3} for each in third]
    rows = [row(1, 112), row(2, 120), row(3, 2025), row(4, 2032)]
    found = goodput_of(run_of(tmp_path, turns, rows))
    assert found is not None
    seconds = 8 * (130 - 100) + 4 * (1060 - 1050) + 4 * (2040 - 2010)
    assert found["device_hours"] == pytest.approx(seconds / 3600)


def test_saves_of_every_kind_are_counted(tmp_path: Path):
    """Of the best and by the clock too: a row records that one preceded its step."""
    turns = [*DIED, turn("trained", 7, step=4), turn("saved", 7), turn("ended", 7, state="completed")]
    rows = [row(1, 3.0), row(2, 4.0, saved=True), row(3, 5.0), row(4, 6.0, saved=True)]
    assert parts(run_of(tmp_path, turns, rows, saved=4))[1].saves == 3


DIED = [turn("submitted", 0), turn("begun", 0), turn("training", 2, step=0, lost=None)]
KEPT = [row(1, 3.0), row(2, 4.0)]
BEYOND = [row(3, 5.5, checkpoint=0.5), row(4, 6.5)]
AGAIN = [row(3, 23.0), row(4, 24.0)]


def test_a_rank_that_died_and_the_attempt_after_it(tmp_path: Path):
    """It is killed at 7 in step 5, noticed at 9, and steps 3 and 4 are made again."""
    turns = [*DIED, turn("ended", 9, state="failed", failed=7.0), turn("begun", 10)]
    turns += [turn("training", 22, step=2, lost=lost_of(BEYOND)), turn("trained", 26, step=4)]
    turns += [turn("saved", 26), turn("ended", 26, state="completed")]
    found, goodput = parts(run_of(tmp_path, turns, [*KEPT, *AGAIN], saved=4))
    assert found == {
        "start": 15, "data": 0.4, "productive": 3.6, "checkpoint": 2.5, "lost": 2.5, "detection": 2
    }  # fmt: skip
    assert (goodput.lost_steps, goodput.failures, goodput.saves) == (2, 1, 2)
    assert goodput.seconds_between_failures == pytest.approx(26) and goodput.checkpoint_seconds == pytest.approx(1.25)
    assert goodput.best_interval_seconds == pytest.approx((2 * 1.25 * 26) ** 0.5)
    assert goodput.as_json()["best_every_steps"] == round((2 * 1.25 * 26) ** 0.5 / goodput.step_seconds)


def test_an_evaluation_recorded_by_a_lost_step_counts_once(tmp_path: Path):
    rows = [*KEPT, {"step": 2, "split": "eval", "time": 5.0}]
    beyond = [row(3, 6.0, evaluation=1.0)]
    turns = [*DIED, turn("ended", 9, state="failed", failed=7.0)]
    found, _ = parts(run_of(tmp_path, turns, rows + beyond, saved=2))
    assert found == {"start": 2, "data": 0.2, "productive": 1.8, "evaluation": 1, "lost": 2, "detection": 2}
    turns += [turn("begun", 10), turn("training", 12, step=2, lost=lost_of(beyond))]
    (tmp_path / "again").mkdir()
    found, _ = parts(run_of(tmp_path / "again", turns, [*rows, row(3, 13.0)], saved=2))
    assert found == {"start": 5, "data": 0.3, "productive": 2.7, "evaluation": 1, "lost": 2, "detection": 2}


def test_a_failed_run_has_lost_its_unsaved_steps(tmp_path: Path):
    turns = [*DIED, turn("ended", 9, state="failed", failed=7.0)]
    found, goodput = parts(run_of(tmp_path, turns, [*KEPT, *BEYOND], saved=2))
    assert found == {"start": 2, "data": 0.2, "productive": 1.8, "checkpoint": 0.5, "lost": 2.5, "detection": 2}
    assert (goodput.lost_steps, goodput.failures) == (2, 1)


def test_a_job_that_slurm_queues_again(tmp_path: Path):
    """Its node is lost after step 4 without a report; SLURM queues it at 9, and it begins at 15."""
    turns = [*DIED, turn("begun", 15, queued=9.0), turn("training", 22, step=2, lost=lost_of(BEYOND))]
    found, goodput = parts(run_of(tmp_path, turns, [*KEPT, *AGAIN], saved=2))
    assert found == {
        "start": 9, "data": 0.4, "productive": 3.6, "checkpoint": 0.5, "lost": 2, "detection": 2.5, "queue": 6
    }  # fmt: skip
    assert (goodput.lost_steps, goodput.failures) == (2, 1)


def test_a_stopped_run_that_is_launched_again_was_idle(tmp_path: Path):
    turns = [*DIED, turn("trained", 4.5, step=2), turn("saved", 5), turn("ended", 6, state="preempted")]
    turns += [turn("ended", 7, state="preempted"), turn("submitted", 86406), turn("begun", 86407)]
    turns += [turn("training", 86410, step=2, lost=None)]
    found, goodput = parts(run_of(tmp_path, turns, [*KEPT, row(3, 86411.0)], saved=2))
    assert found == {
        "start": 6, "queue": 1, "idle": 86400, "checkpoint": 1, "data": 0.3, "productive": 2.7
    }  # fmt: skip
    assert goodput.share == pytest.approx(2.7 / 11) and goodput.failures == 0


def test_a_preempted_job_waits_in_the_queue_from_its_requeue_on(tmp_path: Path):
    turns = [*DIED, turn("trained", 4.5, step=2), turn("saved", 5), turn("begun", 20, queued=8.0)]
    turns += [turn("training", 21, step=2, lost=None)]
    found, goodput = parts(run_of(tmp_path, turns, KEPT, saved=2))
    assert found == {"start": 6, "queue": 12, "checkpoint": 1, "data": 0.2, "productive": 1.8}
    assert goodput.failures == 0


def test_skipped_windows_and_skipped_steps_are_lost(tmp_path: Path):
    turns = [*DIED, turn("training", 8, step=2, lost=lost_of(BEYOND))]
    rows = [*KEPT, row(3, 9.0, skipped=True), row(4, 10.0)]
    found, goodput = parts(run_of(tmp_path, turns, rows, saved=2))
    assert found == {"start": 2, "data": 0.4, "productive": 2.7, "checkpoint": 0.5, "lost": 3.5 + 0.9}
    assert (goodput.lost_steps, goodput.failures) == (3, 0)


def test_differing_clocks_give_no_negative_time(tmp_path: Path):
    """The machine that notices is two seconds behind the one that trains."""
    turns = [*DIED, turn("ended", 3.0, state="failed", failed=2.5)]
    found, goodput = parts(run_of(tmp_path, turns, KEPT, saved=2))
    assert found == {"start": 2, "data": 0.2, "productive": 1.8} and goodput.wall_seconds == pytest.approx(4)


def test_a_damaged_file_ends_nothing(tmp_path: Path):
    run = run_of(tmp_path, DIED, KEPT)
    write_goodput(run)
    with run.metrics.open("a") as file:
        file.write("no json\n")
    assert goodput_of(run) is None
    write_goodput(run)
    assert read_json(run.goodput)["wall_seconds"] == pytest.approx(4), "what was known stays"


def test_unknown_figures_are_none(tmp_path: Path):
    run = freeze(tmp_path / "old")
    assert account(run) is None and read_timeline(run) == []
    note(run, "submitted", 1)
    with (run.path / "timeline.jsonl").open("a") as file:
        file.write('{"event": "unheard", "time": 1, "attempt": 1}\n[]\n{"event": "begun", "ti')
    assert [each.event for each in read_timeline(run)] == ["submitted"] and account(run) is None
