"""The sentences about a run follow from its files."""

from collections.abc import Callable
from typing import Any

import pytest

from distft.goodput import PARTS, Attempt
from distft.report.facts import gather
from distft.report.verdicts import Verdict, attempts_of, verdicts
from distft.run import RunFolder
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


def test_a_failed_run_says_where_it_continues(make_run: Callable[..., RunFolder]) -> None:
    run = make_run(state="failed")
    assert "starts it again from the beginning" in gather(run).verdicts[1].text
    (run.checkpoints / "step-00000004").mkdir(parents=True)
    (run.checkpoints / "latest").symlink_to("step-00000004")
    assert gather(run).verdicts[1].text == "The same command continues it from step 4, its last checkpoint."
    run.write_status(error={"type": "NonFinite", "message": "loss is NaN at step 5"})
    assert "continues" not in " ".join(each.text for each in gather(run).verdicts)
    assert "No overfitting" not in " ".join(each.text for each in gather(run).verdicts)


@pytest.mark.parametrize(
    ("losses", "text"),
    [
        (
            (2.0, 1e6, 30.0, 5.0, 2.1, 1.9, 1.9, 1.9),
            "from 2 to 1.9, and was 1e+06 at step 2: it diverged. Try: a lower",
        ),
        ((2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.5, 2.5), "from 2 to 2.5, and was 2.5 at step 6: it diverged"),
        ((2.0, 1.5, 1.0, 0.5, 0.2, 0.1, 0.1, 0.1), "fell from 2 to 0.1: what it learned does not carry over"),
    ],
)
def test_a_worse_model_is_explained_by_its_training_loss(losses: tuple[float, ...], text: str) -> None:
    rows = [train_row(step, loss=loss) for step, loss in enumerate(losses, 1)]
    found = said({"state": "completed"}, [eval_row(0, 2.0), *rows, eval_row(4, 2.1), eval_row(8, 2.2)])
    assert kinds(found, text) == ["bad"] and kinds(found, "verfit") == []
    better = said({"state": "completed"}, [eval_row(0, 2.0), *rows, eval_row(8, 1.0)])
    assert kinds(better, "Training loss") == []


def test_a_continued_run_names_what_changed() -> None:
    first, second = Attempt(1, 0.0), Attempt(2, 9.0, changed=("strategy: ddp -> fsdp", "eval.every_steps: 10 -> 5"))
    assert list(attempts_of([first])) == []
    [verdict] = attempts_of([first, second])
    assert verdict.text == "It was started 2 times, with changed settings: strategy, eval.every_steps."


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
