"""The numbers of the page are those of the run."""

from dataclasses import replace

import pytest

from distft.goodput import PARTS, note
from distft.report.card import model_card
from distft.report.facts import gather, held_out
from distft.report.page import render
from distft.report.tables import Table, attempt_lines, flat, memory_by_kind, words
from distft.report.tables import goodput_words as words_of_goodput
from distft.run import RunFolder


def texts(facts: Table) -> dict[str, str]:
    return {fact.name: fact.text for fact in facts}


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
def test_equal_or_non_finite_losses_are_not_better(loss: float):
    changes = held_out([{"loss": 1.0, "accuracy": 0.5}, {"loss": loss, "accuracy": 0.5}])
    assert {change.name: change.better for change in changes} == {"loss": False, "accuracy": False}


def test_one_measurement_shows_no_change(make_run):
    run = make_run(rows=[])
    assert gather(run).changes == []
    assert held_out([{"loss": 1.0}]) == []


def test_batch_arithmetic_and_throughput_are_shown(make_run):
    numbers = texts(gather(make_run()).numbers)
    assert numbers["rows per step"] == "24 = 2 processes x 3 micro-batches x 4 rows"
    assert numbers["tokens read"] == "7,200 in 1m12s: 100 per second", "900 real tokens in each of 8 steps"
    assert numbers["target tokens, trained on"] == "2,400", "300 in each"
    said = "parameters 0.50, gradients 0.50, optimizer 1.00 as planned, activations and others 1.25"
    assert numbers["peak memory per process"] == f"3.25 GiB, measured: {said}"


def test_unknown_memory_is_not_split_into_parts():
    counted = {"parameters": 2**30, "gradients": 2**30, "optimizer": 2**31, "total": 2**32, "host": 0}
    for unknown in (None, counted, counted | {"host": 2**31}):
        assert memory_by_kind(3.0, unknown) == "3.00 GiB, measured"


def test_groups_are_named_by_their_choices(make_run):
    facts = gather(make_run())
    assert facts.strategy == "zero3"
    assert texts(facts.what)["strategy"] == "zero3, stage 3, offload no"
    assert texts(facts.what)["optimizer"] == "adamw, lr 0.0001"


def test_without_choices_groups_are_named_by_class(make_run):
    run = make_run()
    run.config.write_text(run.config.read_text().partition("\n")[2])
    facts = gather(run)
    assert facts.strategy == ""
    assert texts(facts.what)["optimizer"] == "AdamW, lr 0.0001"


def test_the_page_shows_whether_code_of_the_model_may_run(make_run):
    assert texts(gather(make_run()).what)["code from the model's folder"] == "not allowed"


def test_counts_of_the_prepared_data_are_shown_with_their_path(make_run):
    assert gather(make_run()).data == [
        ("read", "112", "prepared/report.json#read"),
        ("dropped · no target", "2", "prepared/report.json#dropped.no_target"),
        ("truncated", "7", "prepared/report.json#truncated"),
    ]


def test_a_run_that_never_started_still_has_facts(make_run):
    run: RunFolder = make_run(rows=[], state="failed")
    for file in (run.plan, run.environment, run.metrics, run.command):
        file.unlink()
    facts = gather(run)
    assert facts.status["state"] == "failed"
    assert facts.numbers == facts.environment == facts.rows == []
    assert facts.sources == ["config.yaml", "status.json"]


def test_a_long_list_of_bad_rows_is_cut_with_a_note():
    bad = [{"line": line, "reason": "no prompt"} for line in range(25)]
    shown = list(flat({"bad": bad}, "report.json"))
    assert shown[0] == ("bad", "line 0, reason no prompt", "report.json#bad.0")
    assert shown[-1] == ("bad", "and 5 more", "report.json#bad")


@pytest.mark.parametrize(
    ("value", "text"), [(True, "yes"), (12345, "12,345"), (0.00012344, "0.0001234"), ([1, "a"], "1, a")]
)
def test_values_read_as_written_by_hand(value, text):
    assert words(value) == text


def test_the_model_has_the_name_of_the_loaded_one(make_run):
    run: RunFolder = make_run(model={"path": "/models/my-model"})
    assert texts(gather(run).what)["model"] == "/models/my-model"
    run.write_plan(replace(run.read_plan(), model_name="my-model"))
    assert texts(gather(run).what)["model"] == "my-model, /models/my-model"


@pytest.mark.slow
def test_every_attempt_is_shown_with_its_changes(make_run):
    run: RunFolder = make_run()
    note(run, "submitted", 1, changed=[])
    note(run, "training", 1, step=0, world=2)
    note(run, "ended", 1, state="failed")
    note(run, "begun", 2)
    note(run, "training", 2, step=4, world=1)
    note(run, "trained", 2, step=6)
    note(run, "ended", 2, state="preempted")
    note(run, "submitted", 3, changed=["strategy: zero2 -> fsdp"])
    note(run, "training", 3, step=6, world=4)
    run.add_command("python -m distft.launch name='a run' strategy=fsdp", "attempt 3: strategy: zero2 -> fsdp")
    facts = gather(run)
    lines = [line.split(", ", 1)[1] for line in attempt_lines(facts.attempts)]
    assert lines == [
        "steps from 0, 2 processes, failed",
        "steps 4 to 6, 1 process, preempted",
        "steps from 6, 4 processes, changed: strategy: zero2 -> fsdp",
    ]
    assert facts.command == "python -m distft.launch name='a run' strategy=fsdp"
    page, card = render(facts), model_card(facts, None, [])
    for text in ("zero2 -&gt; fsdp", "<td>4 to 6</td>", "<td>preempted</td>"):
        assert text in page
    assert all(f"- {line}" in card for line in attempt_lines(facts.attempts))
    assert [command[3:] for command in run.read_commands()] == [["name=a run"], ["name=a run", "strategy=fsdp"]]


def test_the_parts_of_the_time_add_up_to_the_total():
    seconds = dict.fromkeys(PARTS, 0.0) | {"productive": 90.4, "start": 100.0, "checkpoint": 17.5, "idle": 54.1}
    seconds |= {"border": 0.1, "data": 0.1}
    lines = words_of_goodput(
        {"goodput": 90.4 / 208.1, "wall_seconds": 262.2, "seconds": seconds, "failures": 1, "lost_steps": 0, "saves": 3}
        | {"best_every_steps": None}
    )
    assert lines[0][:2] == ("goodput", "43.4% of 3m28s, 1 failure")
    shares = [
        float(text.partition("%")[0]) for name, text, _ in lines if name == "goodput" or name.startswith("time: ")
    ]
    assert sum(shares) == pytest.approx(100, abs=0.1)
    assert texts(lines)["without an attempt"] == "54.1 s, not included above"
    assert not any("idle" in name for name in texts(lines))
