"""The page's numbers are the run's."""

import pytest

from distft.report.facts import by_kind, flat, gather, held_out, words
from distft.run import RunFolder


def test_before_is_the_first_measurement_and_after_the_last(make_run):
    facts = gather(make_run())
    loss = facts.changes[0]
    assert (loss.name, loss.before, loss.after, loss.better) == ("loss", 2.5, 1.5, True)
    assert loss.percent == pytest.approx(-40)


def test_higher_accuracy_is_better_and_higher_loss_is_not():
    first = {"loss": 1.0, "accuracy": 0.5}
    changes = held_out([first, {"loss": 2.0, "accuracy": 0.6}])
    assert {change.name: change.better for change in changes} == {"loss": False, "accuracy": True}


@pytest.mark.parametrize("loss", [1.0, float("nan")])
def test_an_equal_loss_is_not_better_and_one_that_is_not_finite_neither(loss: float):
    changes = held_out([{"loss": 1.0, "accuracy": 0.5}, {"loss": loss, "accuracy": 0.5}])
    assert {change.name: change.better for change in changes} == {"loss": False, "accuracy": False}


def test_one_measurement_shows_no_change(make_run):
    run = make_run(rows=[])
    assert gather(run).changes == []
    assert held_out([{"loss": 1.0}]) == []


def test_batch_arithmetic_and_throughput_are_shown(make_run):
    numbers = dict(gather(make_run()).numbers)
    assert numbers["rows per step"] == "24 = 2 processes x 3 micro-batches x 4 rows"
    assert numbers["tokens trained on"] == "7,200 in 72 s: 100 per second"
    said = "parameters 0.50, gradients 0.50, optimizer 1.00 as planned, activations and all else 1.25"
    assert numbers["peak memory of a process"] == f"3.25 GiB, measured: {said}"


def test_memory_that_the_plan_does_not_know_is_not_divided():
    counted = {"parameters": 2**30, "gradients": 2**30, "optimizer": 2**31, "total": 2**32, "host": 0}
    for unknown in (None, counted, counted | {"host": 2**31}):
        assert by_kind(3.0, unknown) == "3.00 GiB, measured"


def test_parts_are_named_by_the_words_that_were_chosen(make_run):
    facts = gather(make_run())
    assert facts.strategy == "zero3"
    assert dict(facts.what)["strategy"] == "zero3, stage 3, offload no"
    assert dict(facts.what)["optimizer"] == "adamw, lr 0.0001"


def test_a_config_without_its_heading_names_parts_by_their_class(make_run):
    run = make_run()
    run.config.write_text(run.config.read_text().partition("\n")[2])
    facts = gather(run)
    assert facts.strategy == ""
    assert dict(facts.what)["optimizer"] == "AdamW, lr 0.0001"


def test_the_page_tells_whether_code_of_the_model_ran(make_run):
    assert dict(gather(make_run()).what)["code from the model's folder"] == "not allowed"


def test_counts_of_the_prepared_data_are_shown_with_their_path(make_run):
    assert gather(make_run()).data == [("read", "112"), ("dropped · no target", "2"), ("truncated", "7")]


def test_a_run_that_never_started_still_has_facts(make_run):
    run: RunFolder = make_run(rows=[], state="failed")
    for file in (run.plan, run.environment, run.metrics, run.command):
        file.unlink()
    facts = gather(run)
    assert facts.status["state"] == "failed"
    assert facts.numbers == facts.environment == facts.rows == []
    assert facts.sources == ["config.yaml", "status.json"]


def test_a_long_list_of_bad_rows_is_cut_and_says_so():
    bad = [{"line": line, "reason": "no prompt"} for line in range(25)]
    shown = list(flat({"bad": bad}))
    assert shown[0] == ("bad", "line 0, reason no prompt")
    assert shown[-1] == ("bad", "and 5 more")


@pytest.mark.parametrize(
    ("value", "text"), [(True, "yes"), (12345, "12,345"), (0.00012344, "0.0001234"), ([1, "a"], "1, a")]
)
def test_values_read_as_written_by_hand(value, text):
    assert words(value) == text
