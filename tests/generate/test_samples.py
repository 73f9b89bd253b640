"""Each evaluation answers the same held-out prompts, and training goes on as without it."""

from pathlib import Path

import pytest
from markupsafe import escape

from distft.generate.samples_file import Sample, append, before_and_after, keep, read_samples, samples_file
from distft.report.card import model_card
from distft.report.facts import gather
from distft.report.page import render
from tests.support.answered import answers, make_run

pytestmark = pytest.mark.slow


def test_each_evaluation_answers_the_same_prompts(tmp_path: Path) -> None:
    more = ("eval=held_out", "eval.every_steps=2")
    run = make_run(tmp_path, *more, "eval.samples=2", name="sampled")
    lines = read_samples(samples_file(run))
    assert [line["step"] for line in lines] == [0, 0, 2, 2, 3, 3]
    assert {(line["prompt"], line["expected"]) for line in lines[:2]} == {
        (line["prompt"], line["expected"]) for line in lines[4:]
    }
    for at, first in (("base", 0), ("step-3", 4)):
        rows = answers(tmp_path / at, run.path, "eval", at=at, max_new_tokens="64")[:2]
        assert [row["completion"] for row in rows] == [line["completion"] for line in lines[first : first + 2]]
    [first, second] = before_and_after(run)
    shares = lines[4]["verbatim"], lines[4]["expected_verbatim"]
    question = lines[0]["prompt"].removeprefix("user\n").partition("\n")[0]
    assert first == Sample(question, lines[0]["expected"], lines[0]["completion"], lines[4]["completion"], *shares)
    assert before_and_after(run, 2)[1].after == lines[3]["completion"] and second.before == lines[1]["completion"]
    facts = gather(run)
    assert facts.samples == [first, second] and escape(first.prompt) in render(facts)
    assert "## Samples" in model_card(facts, None, [])
    plain = make_run(tmp_path, *more, name="plain")
    assert not samples_file(plain).exists() and before_and_after(plain) == [] == gather(plain).samples
    losses = [[row["loss"] for row in each.read_metrics()] for each in (run, plain)]
    assert losses[0] == losses[1], "answering changes no step"


def test_an_answer_may_hold_any_separator_of_lines(tmp_path: Path) -> None:
    file = tmp_path / "eval" / "samples.jsonl"
    keep(file, 0)
    lines = [{"step": 0, "completion": "a\u2028b\x85c\u2029d"}, {"step": 2, "completion": "e"}]
    append(file, lines)
    keep(file, 2)
    assert read_samples(file) == lines


def test_samples_after_the_start_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "eval" / "samples.jsonl"
    keep(file, 0)
    append(file, [{"step": 0}, {"step": 2}, {"step": 4}])
    with file.open("a") as opened:
        opened.write('{"step": ')
    keep(file, 2)
    assert read_samples(file) == [{"step": 0}, {"step": 2}]
    keep(file, 0)
    assert read_samples(file) == []
