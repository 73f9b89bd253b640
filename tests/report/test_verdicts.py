"""The sentences about a run follow from its files."""

from typing import Any

import pytest

from distft.goodput import PARTS
from distft.report.facts import gather
from distft.report.verdicts import Verdict, verdicts
from distft.tasks.selection import Selection
from tests.report.conftest import eval_row, train_row


def said(status: dict[str, Any], rows: list[dict[str, Any]], goodput: dict[str, Any] | None = None) -> list[Verdict]:
    return verdicts({"step": 8} | status, None, rows, goodput or {}, None, "")


def kinds(found: list[Verdict], word: str) -> list[str]:
    return [verdict.kind for verdict in found if word in verdict.text]


def test_a_run_that_improved_to_the_end_is_good() -> None:
    found = said({"state": "completed"}, [eval_row(step, 2.0 - step / 10) for step in (0, 4, 8)])
    assert [verdict.kind for verdict in found] == ["good", "good", "good"]
    assert found[1].text == "Held-out loss fell by 40.0%, from 2 to 1.2."
    assert found[2].text == "No overfitting: held-out loss is lowest at the end."


@pytest.mark.parametrize(("last", "kind"), [(1.009, "good"), (1.011, "bad")])
def test_a_rise_of_more_than_1_percent_is_overfitting(last: float, kind: str) -> None:
    found = said({"state": "completed"}, [eval_row(0, 2.0), eval_row(4, 1.0), eval_row(8, last)])
    assert kinds(found, "verfit") == [kind]
    if kind == "bad":
        assert "after step 4" in found[2].text and found[2].sources.startswith("metrics.jsonl#eval.4.loss")


def test_the_metric_that_decides_is_judged() -> None:
    evals = [eval_row(step, 2.0) | {"accuracy": value} for step, value in ((0, 0.5), (4, 0.75), (8, 0.6))]
    found = verdicts({"state": "completed", "step": 8}, None, evals, {}, None, "", Selection.of("accuracy", "auto"))
    assert found[1] == Verdict(
        "good",
        "Held-out accuracy rose by 20.0%, from 0.5 to 0.6.",
        "metrics.jsonl#eval.0.accuracy metrics.jsonl#eval.8.accuracy",
    )
    assert "overfits after step 4: held-out accuracy fell by 20.0%" in found[2].text


def test_two_evaluations_say_nothing_about_overfitting() -> None:
    found = said({"state": "completed"}, [eval_row(0, 2.0), eval_row(8, 1.0)])
    assert kinds(found, "cannot be judged from 2") == ["note"]


def test_a_loss_that_did_not_fall_is_bad_and_none_is_unknown() -> None:
    assert kinds(said({"state": "completed"}, [eval_row(0, 1.0), eval_row(8, 1.0)]), "did not improve") == ["bad"]
    for rows in ([], [eval_row(0, 1.0)], [eval_row(0, 1.0), eval_row(8, float("nan"))]):
        assert kinds(said({"state": "completed"}, rows), "is not known") == ["note"]


def test_failed_and_interrupted_runs_say_so_first() -> None:
    assert said({"state": "failed"}, [])[0].kind == "bad"
    assert "The same command continues it." in said({"state": "preempted"}, [])[0].text
    assert said({"state": "running"}, [])[0].text == "The run is at step 8."


def test_skipped_steps_are_counted() -> None:
    rows = [train_row(1), train_row(2, skipped=True), train_row(3, skipped=True)]
    assert kinds(said({"state": "completed"}, rows), "2 steps were skipped") == ["bad"]


def test_the_largest_avoidable_part_of_the_time_has_advice() -> None:
    seconds = dict.fromkeys(PARTS, 0.0) | {"productive": 60.0, "evaluation": 30.0, "checkpoint": 10.0}
    found = said({"state": "completed"}, [], {"goodput": 0.6, "wall_seconds": 100.0, "seconds": seconds})
    [verdict] = [each for each in found if "went into" in each.text]
    assert verdict.text.endswith("30% went into: evaluation. Try: a larger eval.every_steps")
    assert "goodput.json#seconds.evaluation" in verdict.sources


def test_rows_left_out_are_counted(make_run) -> None:
    report = {"streams": {"train": {"read": 1000, "bad": 20, "dropped": 3, "truncated": 0}}}
    [verdict] = verdicts({"state": "completed", "step": 1}, None, [], {}, ("d/report.json", report), "")[2:]
    assert verdict.text == "Of 1,000 rows read 20 malformed and 3 dropped by cleaning were left out."
    assert verdict.kind == "bad", "more than 1% are malformed"
    assert gather(make_run()).verdicts[0].text == "The run completed all its 8 steps."
